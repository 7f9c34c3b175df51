"""Own layer without an eval branch: it keeps running statistics and never uses them."""

from good_bn import GoodBatchNorm2d


class NoEvalBatchNorm2d(GoodBatchNorm2d):
    """In eval mode a sample's output still depends on the other samples of its batch."""

    def forward(self, x):
        mean, var = self.moments(x)
        if self.training:
            self.update(mean, var, x.numel() // x.shape[1])
        return self.normalise(x, mean, var)
