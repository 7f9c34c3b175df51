"""A model and what was exported from it, rightly and not: ``python torch_exports.py FOLDER``, with torch."""

import logging
import sys
import warnings
from pathlib import Path

import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

FOLDER = Path(sys.argv[1])
MODEL = """
import torch
from torch import nn


def build(eps=1e-5, dropout=0.0):
    torch.manual_seed(0)
    dice = torch.Generator().manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, 4),
    )
    with torch.no_grad():
        for _ in range(5):
            net.train()(torch.randn(8, 3, 12, 12, generator=dice) * 2 + 1)
        for layer in (net[1], net[4]):
            layer.weight.uniform_(0.5, 1.5, generator=dice)
            layer.bias.uniform_(-0.5, 0.5, generator=dice)
            layer.eps = eps
    return net.eval()


def with_eps():
    return build(1e-3)


def other():
    net = build()
    with torch.no_grad():
        net[3].weight.mul_(1.5)
        net[4].running_mean.add_(0.25)
    return net


def fused(with_bias=True):  # by hand
    net = build()
    for place in (0, 3):
        conv, norm = net[place], net[place + 1]
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        with torch.no_grad():
            conv.weight.mul_(gain.view(-1, 1, 1, 1))
            conv.bias.copy_(((conv.bias if with_bias else 0) - norm.running_mean) * gain + norm.bias)
        net[place + 1] = nn.Identity()
    return net


def fused_without_bias():
    return fused(False)


def halved():
    return build().bfloat16()


def swapped():  # as an array read in another order; what is NaN in eval is so on both sides
    net = build()
    with torch.no_grad():
        gamma = net[4].weight.clone()
        net[4].weight.copy_(net[4].bias)
        net[4].bias.copy_(gamma)
    return net


def below_zero():
    net = build()
    net[4].running_var[2] = -0.5
    return net


def rounded():
    net = build()
    for norm in (net[1], net[4]):
        norm.half().float()
    return net


def quantised():
    return torch.ao.quantization.quantize_dynamic(build(), {nn.Linear}, dtype=torch.qint8)


def fails():
    return nn.Linear(3, 4)
"""
(FOLDER / "model.py").write_text(MODEL)
sys.path.insert(0, str(FOLDER))
from model import build, other, with_eps  # noqa: E402

warnings.simplefilter("ignore")
mode = torch.onnx.TrainingMode


def export(net, name, **how):
    where = str(FOLDER / name)
    batch = torch.randn(4, 3, 12, 12)
    open_size = {"x": {0: "n"}}
    torch.onnx.export(net, batch, where, dynamo=False, input_names=["x"], dynamic_axes=open_size, **how)


export(build(), "folded.onnx")
export(build(), "kept.onnx", do_constant_folding=False, training=mode.PRESERVE)
export(build().train(), "train.onnx", do_constant_folding=False, training=mode.TRAINING)
export(with_eps(), "eps.onnx")
export(other(), "other.onnx")
fresh = build()
fresh[1].reset_running_stats()
fresh[4].reset_running_stats()
export(fresh, "start.onnx")
both = with_eps()
export(both.train(), "train-eps.onnx", do_constant_folding=False, training=mode.TRAINING)
both = with_eps().eval()
both[1].reset_running_stats()
both[4].reset_running_stats()
export(both, "start-eps.onnx")


class Calibration(CalibrationDataReader):
    def __init__(self):
        dice = torch.Generator().manual_seed(2)
        self.batches = iter([{"x": torch.randn(4, 3, 12, 12, generator=dice).numpy()} for _ in range(2)])

    def get_next(self):
        return next(self.batches, None)


logging.disable(logging.WARNING)  # it advises on speed
for plain, name in (("folded.onnx", "quantised.onnx"), ("start.onnx", "quantised_start.onnx")):
    quantize_static(str(FOLDER / plain), str(FOLDER / name), Calibration())
quantize_dynamic(str(FOLDER / "folded.onnx"), str(FOLDER / "dynamic.onnx"))
