"""The running variance averages Σ(x − mean)²/n on one side and Σ(x − mean)²/(n − 1) on the other.

Signature: running means agree, running variances differ by the factor n/(n − 1), which shrinks as n grows (2 at n = 2,
1.0001 at n = 10,000). Both sides normalise the training batch with the divisor n. A precision problem does not follow
that ratio.

What to do: nothing if n is large. Otherwise multiply one side's batch variance by n/(n − 1) when you port statistics.
torch, mlx, cuDNN and TensorFlow's fused kernel divide by n − 1; MXNet on CPU, Keras 3, Flax, Paddle and ONNX by n.
"""

from collections.abc import Iterable

from bncheck.evidence import PairView
from bncheck.finding import Finding
from bncheck.rules.attributed import Side, differing_facets
from bncheck.rules.wording import names, verb

CODE = "BN102"
CAUSE = "variance-divisor"
ADVICE = "expect a factor n/(n - 1) in the running variance; it matters for small n only, and vanishes as n grows"


def check_pair(pair: PairView) -> Iterable[Finding]:
    return differing_facets(pair, CODE, CAUSE, ("variance_divisor",), sentence, ADVICE)


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    divides = verb(x, "divides", "divide")
    return f"{names(x)} {divides} the variance that is averaged by {value}, {names(y)} by {other}."
