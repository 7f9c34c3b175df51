"""Own layer that changes in place what autograd has saved: it only shows with two forwards before one backward."""

import torch
from good_bn import GoodBatchNorm2d


class InplaceBatchNorm2d(GoodBatchNorm2d):
    """Multiplying by a buffer makes autograd keep that buffer; counting it up in place invalidates what was kept."""

    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=True):
        super().__init__(channels, eps, momentum, affine)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.count += 1
        # Meant as a bias correction; once the count is used in the graph, the line above may not change it.
        return super().forward(x) * (self.count / self.count.clamp(min=1))
