"""Own layer that reads PyTorch's momentum the other way round: as the weight of the old average."""

from good_bn import GoodBatchNorm2d


class InvertedMomentumBatchNorm2d(GoodBatchNorm2d):
    """momentum = 0.1 then forgets 90 % of the past at every step."""

    def update(self, mean, var, count):
        self.momentum = 1 - self.momentum
        super().update(mean, var, count)
        self.momentum = 1 - self.momentum
