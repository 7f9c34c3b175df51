"""Own layer without an eval branch: it keeps running statistics and never uses them."""

import torch
from good_bn import GoodBatchNorm2d


class NoEvalBatchNorm2d(GoodBatchNorm2d):
    """In eval mode a sample's output still depends on the other samples of its batch."""

    def forward(self, x):
        mean = x.mean(dim=(0, 2, 3))
        var = x.var(dim=(0, 2, 3), unbiased=False)
        if self.training:
            self.update(mean, var, x.numel() // x.shape[1])
        return self.scale((x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + self.eps))


