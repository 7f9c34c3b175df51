"""The two sides add another eps, or add it elsewhere.

Signature: statistics agree, only y differs, and the more the closer the variance comes to eps. 1/sqrt(var + eps) and
1/(sqrt(var) + eps) agree for large variances and part for small ones.

What to do: set eps on both sides; defaults are 1e-5 (torch, MXNet Gluon, Flax, Paddle) and 1e-3 (Keras, MXNet's raw
operator). eps is not part of a torch checkpoint: a rebuilt head takes the default again.
"""

from collections.abc import Iterable

from bncheck.evidence import PairView
from bncheck.finding import Finding
from bncheck.rules.attributed import Side, differing_facets
from bncheck.rules.wording import names, number, verb

CODE = "BN112"
CAUSE = "eps"
EXPLAINS = ("outputs", "gradients")
FOLLOWS_FROM = ("refused",)
NEEDS_CONVENTIONS = True
ADVICE = "set the same eps on both sides; it is not stored in most checkpoints"
PLACE = "divide by sqrt(var + eps), not by sqrt(var) + eps (torch.rsqrt(var + eps) in a layer of your own)"


def check_pair(pair: PairView) -> Iterable[Finding]:
    yield from differing_facets(pair, CODE, CAUSE, ("eps", "default_eps"), sentence, ADVICE)
    yield from differing_facets(pair, CODE, CAUSE, ("eps_placement",), placement, PLACE, usual=("inside",))


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    adds = verb(x, "adds", "add")
    return f"{names(x)} {adds} an eps of {number(value)} to the variance, {names(y)} one of {number(other)}."


def placement(x: Side, value: object, y: Side, other: object) -> str:
    return f"{names(x)} {verb(x, 'adds', 'add')} eps {value} the square root, {names(y)} {other} it."
