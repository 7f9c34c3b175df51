"""The two sides add another eps, or add it elsewhere.

Signature: statistics agree, only y differs, and the more the closer the variance comes to eps. 1/sqrt(var + eps) and
1/(sqrt(var) + eps) agree for large variances and part for small ones.

What to do: set eps on both sides; defaults are 1e-5 (torch, MXNet Gluon, Flax, Paddle) and 1e-3 (Keras, MXNet's raw
operator). eps is not part of a torch checkpoint: a rebuilt head takes the default again.
"""

from collections.abc import Iterable

from bncheck.diagnosis.replay.attribution import left_open
from bncheck.diagnosis.rules.attributed import Side, differing_facets
from bncheck.diagnosis.rules.dissected import departing
from bncheck.diagnosis.rules.wording import names, number, verb
from bncheck.evidence import PairView
from bncheck.finding import Finding

CODE = "BN112"
CAUSE = "eps"
EXPLAINS = ("outputs", "gradients")
FOLLOWS_FROM = ("refused",)
NEEDS_CONVENTIONS = True
ADVICE = "set the same eps on both sides; it is not stored in most checkpoints"
PLACE = "divide by sqrt(var + eps), not by sqrt(var) + eps (torch.rsqrt(var + eps) in a layer of your own)"


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(differing_facets(pair, CODE, CAUSE, ("eps", "default_eps"), sentence, ADVICE))
    found += differing_facets(pair, CODE, CAUSE, ("eps_placement",), placement, PLACE, usual=("inside",))
    yield from found or departing(pair, CODE, CAUSE)


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    one, two = measured(x, value), measured(y, other)
    return f"{names(x)} {verb(x, 'adds', 'add')} an eps {one} to the variance, {names(y)} one {two}."


def measured(side: Side, value: object) -> str:
    """ "of 1e-05"; eps beside a variance of 1 is known to some 1e-6 only: then what it may be is said, and no number
    that nobody has written."""
    convention = side[0].convention
    facet = convention.facets.get("eps") if convention is not None else None
    said = number(value)
    if facet is not None and not facet.identifiable and len(facet.standing) == 2:
        low, high = (float(end) for end in facet.standing)
        said = left_open(low, high)
    return said if said.startswith("between") else f"of {said}"


def placement(x: Side, value: object, y: Side, other: object) -> str:
    return f"{names(x)} {verb(x, 'adds', 'add')} eps {value} the square root, {names(y)} {other} it."
