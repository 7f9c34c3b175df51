"""Checkpoints as Paddle writes them: ``python paddle_checkpoints.py FOLDER``, in a Python that has paddle."""

import sys
from pathlib import Path

import numpy as np
import paddle
from safetensors.numpy import save_file

FOLDER = Path(sys.argv[1])
net = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4), paddle.nn.LayerNorm(4))
optimizer = paddle.optimizer.Adam(parameters=net.parameters())
net[1].weight.set_value(np.array([1.0, 0.5, 0.25, 2.0], "float32"))
net[1].bias.set_value(np.array([0.125] * 4, "float32"))
net[1]._mean.set_value(np.array([1.0, 2.0, 3.0, 4.0], "float32"))
net[1]._variance.set_value(np.array([0.5, 1.5, 2.5, 3.5], "float32"))
paddle.save(net.state_dict(), str(FOLDER / "state.pdparams"))
paddle.save(net.state_dict(), str(FOLDER / "protocol2.pdparams"), protocol=2)
paddle.save({"model": net.state_dict(), "epoch": 3}, str(FOLDER / "nested.pdparams"))
words = {"weight": "weight", "bias": "bias", "_mean": "running_mean", "_variance": "running_var"}
arrays = {"bn." + words[key]: value.numpy() for key, value in net[1].state_dict().items()}
save_file(arrays, str(FOLDER / "state.safetensors"), metadata={"format": "pt"})
