"""Other values than those of the whole batch go into the mean and the variance.

Signature: within each chunk, half, sample or group of the batch y is a straight line over x, and over the whole batch
it is not; or it is one, and its mean and variance are those of some of the values only: of the first samples or
positions, of those that are not padding. The running statistics may take the same values, others, or each part in turn,
which makes several updates of one forward (ghost batches). It is found value by value in a layer of your own, or in
one whose framework has a keyword for it (virtual_batch_size), and said only where each output and each step of the
running statistics comes out of it within rounding.

What to do: take mean and variance of each channel over all values of the batch. Where parts, masks or domains are
meant, the layer is no BatchNorm: compare it with one that is given the same parts, and keep the parts in eval in mind,
which normalises with one running mean for all of them.
"""

from collections.abc import Iterator
from dataclasses import replace

from bncheck.diagnosis.rules.dissected import departing
from bncheck.evidence import Anatomy, PairView
from bncheck.finding import Finding

CODE = "BN120"
CAUSE = "value-count"
EXPLAINS = ("outputs", "gradients")


def check_pair(pair: PairView) -> Iterator[Finding]:
    for item in departing(pair, CODE, CAUSE):
        anatomy = anatomy_of(pair, item.layer)
        counts = {"values per channel": anatomy.values, "values that share one mean": anatomy.reached}
        yield replace(item, evidence={**item.evidence, **counts})


def anatomy_of(pair: PairView, layer: str) -> Anatomy:
    return next(cell.anatomy[layer] for cell in (pair.a, pair.b) if layer in cell.anatomy)
