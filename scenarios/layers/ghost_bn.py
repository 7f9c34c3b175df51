"""Ghost BatchNorm: each chunk of a batch is normalised by itself, and moves the one set of running statistics."""

import torch
from torch import nn


class GhostBatchNorm1d(nn.BatchNorm1d):
    chunk = 4

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        return torch.cat([super(GhostBatchNorm1d, self).forward(part) for part in x.split(self.chunk)])


class DomainBatchNorm1d(nn.BatchNorm1d):
    """Source and target halves are normalised apart; the statistics are the source's."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        source, target = x.chunk(2)
        other = nn.functional.batch_norm(target, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return torch.cat([super().forward(source), other])
