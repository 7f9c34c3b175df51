"""Own layer whose running mean is a default argument: Python makes it once, and every layer of the process moves it."""

import torch
from good_bn import GoodBatchNorm2d


class DefaultArgumentBatchNorm2d(GoodBatchNorm2d):
    """A new layer begins where the last one stopped; one layer alone is as it should be."""

    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=True, start=torch.zeros(3)):
        super().__init__(channels, eps, momentum, affine)
        self.running_mean = start
