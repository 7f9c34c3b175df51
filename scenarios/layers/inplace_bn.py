"""Own layer that changes in place what autograd has saved: it only shows with two forwards before one backward."""

import torch
from good_bn import GoodBatchNorm2d


class InplaceBatchNorm2d(GoodBatchNorm2d):
    """Dividing by a buffer makes autograd keep the buffer; the next forward writes into what was kept."""

    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=True):
        super().__init__(channels, eps, momentum, affine)
        self.register_buffer("count", torch.zeros(()))

    def moments(self, x):
        self.count.fill_(x.numel() // x.shape[1])
        mean = x.sum(dim=(0, 2, 3)) / self.count
        return mean, ((x - mean[:, None, None]) ** 2).sum(dim=(0, 2, 3)) / self.count
