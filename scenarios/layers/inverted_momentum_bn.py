"""Own layer that reads PyTorch's momentum the other way round: as the weight of the old average."""

import torch
from good_bn import GoodBatchNorm2d


class InvertedMomentumBatchNorm2d(GoodBatchNorm2d):
    """momentum = 0.1 then forgets 90 % of the past at every step."""

    @torch.no_grad()
    def update(self, mean, var, count):
        unbiased = var * count / (count - 1)
        self.running_mean += (1 - self.momentum) * (mean - self.running_mean)
        self.running_var += (1 - self.momentum) * (unbiased - self.running_var)
        self.num_batches_tracked += 1
