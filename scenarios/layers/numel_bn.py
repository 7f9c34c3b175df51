"""Own layer with the classic mistake: it corrects the variance with all elements instead of those of one channel."""

from good_bn import GoodBatchNorm2d


class NumelBatchNorm2d(GoodBatchNorm2d):
    """n = x.numel() makes n / (n - 1) too small: with C channels the correction all but vanishes."""

    def update(self, mean, var, count):
        super().update(mean, var, count * len(mean))
