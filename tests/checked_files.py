"""Writes the ONNX files of test_check.py, by torch.onnx.export and by onnx.helper: checked_files.py FOLDER."""

import os
import sys
import warnings

import numpy as np
import onnx
import torch
from checked_models import Net, trained
from onnx import TensorProto, helper, numpy_helper
from torch import nn

os.chdir(sys.argv[1])
warnings.simplefilter("ignore")


class Plain(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)["logits"]


def export(net, name, **more):
    torch.onnx.export(net, torch.randn(4, 3, 12, 12), name, dynamo=False, opset_version=17, **more)


def by_hand(name, last=(), first="N", var=1.5):
    """A BatchNormalization node, and what stands behind it."""
    rng = np.random.default_rng(0)
    held = {"g": rng.normal(size=3) + 2, "b": rng.normal(size=3), "m": rng.normal(size=3), "v": np.full(3, var)}
    held["one"] = np.ones(1)
    nodes = [helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y0"], name="bn")]
    for place, (kind, attributes) in enumerate(last):
        nodes.append(helper.make_node(kind, [f"y{place}"], [f"y{place + 1}"], name=kind.lower(), **attributes))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [first, 3, 8, 8])],
        [helper.make_tensor_value_info(f"y{len(last)}", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype("f4"), key) for key, value in held.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, name)


class Upsampled(nn.Module):
    """Resize, ConvTranspose, Gelu, GroupNorm and a softmax, as in vision models."""

    def __init__(self):
        super().__init__()
        self.down, self.bn = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.group, self.up = nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x):
        x = nn.functional.gelu(self.group(self.bn(self.down(x))))
        x = nn.functional.interpolate(self.up(x), scale_factor=1.5, mode="bilinear", align_corners=False)
        a, b = nn.functional.hardswish(x).chunk(2, 1)
        return torch.softmax(nn.functional.pad(a, (1, 1)) + b.mean((2, 3), keepdim=True), 1)


torch.manual_seed(0)
train = torch.onnx.TrainingMode
export(Plain(trained()), "eval.onnx", training=train.EVAL, do_constant_folding=False)
export(Plain(trained()), "folded.onnx")
export(Plain(Net()).train(), "training.onnx", training=train.TRAINING, do_constant_folding=False)
net = Upsampled()
net(torch.randn(8, 3, 12, 12))
net.eval()
net.bn.eval()
export(net, "upsampled.onnx", training=train.PRESERVE, do_constant_folding=False)
by_hand("minus-one.onnx", [("Relu", {})], first=-1)
by_hand("lacking.onnx", [("Softsign", {})])
by_hand("negative.onnx", var=-0.5)
