"""A BatchNorm1d over (batch, channels, time) that leaves padded frames (all channels zero) out of its statistics."""

import torch
from torch import nn


class MaskedBatchNorm1d(nn.BatchNorm1d):
    def forward(self, x):
        if not self.training:
            return super().forward(x)
        keep = (x != 0).any(dim=1, keepdim=True).to(x.dtype)
        count = keep.sum()
        mean = (x * keep).sum(dim=(0, 2)) / count
        var = (((x - mean[:, None]) * keep) ** 2).sum(dim=(0, 2)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(var + self.eps)
        return (x - mean[:, None]) * scale[:, None] + self.bias[:, None]
