"""A deep network for the tests of whole networks: convolution, BatchNorm, Hardswish, ``depth`` times.

Where oneDNN is switched off (the target torch[no_onednn]) the kernels are others, and the network has ``fault`` in the
middle layer: that is the side of a pair that differs.
"""

import torch
from torch import nn


class BatchMode(nn.BatchNorm2d):
    """Forgets to leave training mode."""

    def train(self, mode=True):
        return super().train(True)


def build(depth=20, width=16, fault="none"):
    torch.manual_seed(depth)
    odd = -1 if torch._C._get_mkldnn_enabled() else depth // 2
    steps = []
    for place in range(depth):
        named = fault if place == odd else "none"
        conv = nn.Conv2d(width if place else 3, width, 3, padding=1, bias=False)
        kind = BatchMode if named == "mode" else nn.BatchNorm2d
        norm = kind(width, eps=1e-3 if named == "eps" else 1e-5)
        with torch.no_grad():
            norm.weight.uniform_(0.8, 1.2)
            if named == "weight":
                conv.weight[0] *= 1.01
        steps += [conv, norm, nn.Hardswish()]
    return nn.Sequential(*steps)
