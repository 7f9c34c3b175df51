"""Checkpoints as MXNet writes them: ``python mxnet_checkpoints.py FOLDER``, in a Python that has mxnet."""

import sys
from pathlib import Path

import mxnet as mx

FOLDER = Path(sys.argv[1])
net = mx.gluon.nn.HybridSequential()
net.add(mx.gluon.nn.Conv2D(4, 3, in_channels=3), mx.gluon.nn.BatchNorm(in_channels=4))
net.initialize()
norm = net[1]
norm.gamma.set_data(mx.nd.array([1.0, 0.5, 0.25, 2.0]))
norm.beta.set_data(mx.nd.array([0.125] * 4))
norm.running_mean.set_data(mx.nd.array([1.0, 2.0, 3.0, 4.0]))
norm.running_var.set_data(mx.nd.array([0.5, 1.5, 2.5, 3.5]))
net.save_parameters(str(FOLDER / "gluon.params"))
net.hybridize()
net(mx.nd.ones((1, 3, 8, 8)))
net.export(str(FOLDER / "exported"))
mx.nd.save(str(FOLDER / "half.params"), {"bn_" + k: v.data().astype("float16") for k, v in (
    ("gamma", norm.gamma), ("beta", norm.beta), ("running_mean", norm.running_mean), ("running_var", norm.running_var)
)})  # fmt: skip
mx.nd.save(str(FOLDER / "nameless.params"), [mx.nd.ones((2, 2))])
