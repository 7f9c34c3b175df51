"""The two sides add another eps, or add it elsewhere.

Signature: statistics agree, only y differs, and the more the closer the variance comes to eps. 1/sqrt(var + eps) and
1/(sqrt(var) + eps) agree for large variances and part for small ones. Of a model by itself an eps of 0, or of 0.1 and
more, is said (nn.BatchNorm2d(64, 0.8) sets eps, not momentum), and variances that all vanish beside it.

What to do: set eps on both sides; defaults are 1e-5 (torch, MXNet Gluon, Flax, Paddle) and 1e-3 (Keras, MXNet's raw
operator). eps is not part of a torch checkpoint: a rebuilt head takes the default again.
"""

from collections.abc import Iterable, Iterator

from bncheck.diagnosis.lived.departures import Departure
from bncheck.diagnosis.replay.sides import left_open
from bncheck.diagnosis.rules.attributed import Side, accounts_for, differing_facets, summary
from bncheck.diagnosis.rules.constant_input import eps_of_each
from bncheck.diagnosis.rules.departing import about_departures
from bncheck.diagnosis.rules.dissected import departing, scaled_otherwise
from bncheck.diagnosis.rules.holdings import damage, settings
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import PairView
from bncheck.finding import Finding
from bncheck.life import Holding, Life

CODE = "BN112"
CAUSE = "eps"
EXPLAINS = ("outputs", "gradients")
FOLLOWS_FROM = ("refused",)
NEEDS_CONVENTIONS = True
ADVICE = "set the same eps on both sides; it is not stored in most checkpoints"
PLACE = "divide by sqrt(var + eps), not by sqrt(var) + eps (torch.rsqrt(var + eps) in a layer of your own)"


def check_pair(pair: PairView) -> Iterable[Finding]:
    elsewhere = added_to(pair.a.members) != added_to(pair.b.members)
    advice = f"{PLACE}; {ADVICE}" if elsewhere else ADVICE
    found = list(differing_facets(pair, CODE, CAUSE, ("eps", "default_eps"), sentence, advice))
    found += differing_facets(pair, CODE, CAUSE, ("eps_placement",), placement, PLACE, usual=("inside",))
    found = found or list(of_constant_input(pair))
    yield from departing(pair, CODE, CAUSE) if scaled_otherwise(pair) else found or departing(pair, CODE, CAUSE)


def of_constant_input(pair: PairView) -> Iterator[Finding]:
    """Default eps that differ, on an input that is one number in each channel: called on ones, a layer gives
    1/sqrt(1 + eps) in inference."""
    each = eps_of_each(pair)
    if each is None:
        return
    a, b = pair.a.members, pair.b.members
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="convention",
        title=sentence(a, each[0], b, each[1]),
        targets=targets(a, b),
        scenario=pair.case.scenario,
        case=pair.case.name,
        layer="",
        event=pair.differing[0].first_event,
        quantity="output",
        explained=1.0,
        evidence={f"eps of {pair.a.target}": each[0], f"eps of {pair.b.target}": each[1], **summary(pair.differing[0])},
        advice=ADVICE,
        proof=accounts_for(1.0, "output"),
    )


def sentence(x: Side, value: object, y: Side, other: object) -> str:
    one, two = measured(x, value), measured(y, other)
    here, there = added_to(x), added_to(y)
    where = f" to the {there}" if here != there else ""
    return f"{names(x)} {verb(x, 'adds', 'add')} an eps {one} to the {here}, {names(y)} one {two}{where}."


def added_to(side: Side) -> str:
    """What eps is added to, where the side was seen to add it outside the root."""
    convention = side[0].convention
    facet = convention.facets.get("eps_placement") if convention is not None else None
    return "deviation" if facet is not None and facet.value == "outside" else "variance"


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


def check_holding(holding: Holding) -> list[Finding]:
    """An eps that nobody would choose, or beside which the variances vanish."""
    return of_holding(holding, CODE, CAUSE, [*settings.odd_eps(holding), *damage.tiny(holding)])


def check_life(life: Life) -> list[Finding]:
    return about_departures(life, CODE, CAUSE, another_eps)


def another_eps(found: Departure) -> tuple[str, str]:
    if found.value == "outside":
        says = "{who} add{s} eps to the deviation and not to the variance."
        return says, "divide by sqrt(var + eps), not by sqrt(var) + eps"
    says = f"{{who}} normalise{{s}} as with an eps of {number(found.value)}, and hold{{s}} {number(found.due)}."
    return says, "use the eps of the constructor in training and in eval"
