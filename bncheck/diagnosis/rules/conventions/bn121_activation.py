"""An activation stands behind the normalisation, inside the layer.

Signature: y is cut off at 0 (ReLU), bent there (leaky ReLU), or follows SiLU, GELU, ELU, tanh or their like, in
training and in eval; with the activation taken off, y is what BatchNorm gives. The rest of the layer is judged behind
it. It is found value by value in a layer of your own, and said only where it makes every output within rounding.

What to do: nothing, if it is meant (fused layers such as BatchNorm with ReLU): compare with the built-in layer followed
by that activation. Otherwise leave it out of the layer: gradients and the next layer's input change with it.
"""

from collections.abc import Iterator

from bncheck.diagnosis.rules.dissected import departing
from bncheck.evidence import PairView
from bncheck.finding import Finding

CODE = "BN121"
CAUSE = "activation"
EXPLAINS = ("outputs", "gradients")


def check_pair(pair: PairView) -> Iterator[Finding]:
    return departing(pair, CODE, CAUSE)
