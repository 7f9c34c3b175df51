"""The output is normalised with other statistics than expected.

Signature: y inverted against x gives the mean and the inverse standard deviation that were used. A training forward
should reveal those of the batch, an eval forward the running ones. Running statistics in training, batch statistics in
eval, or a mixture (the mixing weight is solved for) show here. Eval with batch statistics makes a sample's output
depend on the samples next to it, by far more than rounding. Layers of a model that keep no running statistics do that.

What to do: set the mode of this very layer; do not use track_running_stats=False, or an average that is still at its
initial value, where single samples are evaluated. Masked or blended normalisers have to be ported as such.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from bncheck.diagnosis.lived import played
from bncheck.diagnosis.lived.departures import Departure
from bncheck.diagnosis.rules.attributed import Side, differing_facets
from bncheck.diagnosis.rules.departing import about_departures
from bncheck.diagnosis.rules.departure import same
from bncheck.diagnosis.rules.dissected import departing, scaled_otherwise
from bncheck.diagnosis.rules.freezing import wholly_frozen
from bncheck.diagnosis.rules.holdings import settings
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.in_batches import dependent, in_batches
from bncheck.diagnosis.rules.layer_names import of_all
from bncheck.diagnosis.rules.lives import reach
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.revealed import Source, sources
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding, Kind
from bncheck.life import Holding, Life

CODE = "BN111"
CAUSE = "normaliser-source"
EXPLAINS = ("outputs", "gradients")
FOLLOWS_FROM = ("refused",)
NEEDS_CONVENTIONS = True
ADVICE = "set the mode of this layer explicitly, and keep running statistics where single samples are evaluated"
OWN = (
    "normalise with the batch's mean and variance while self.training is true, and with running_mean and running_var "
    "when it is false"
)
USUAL = {"train_normaliser": "batch", "eval_normaliser": "running"}
FACETS = {"train_normaliser": "training", "eval_normaliser": "eval"}


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(differing_facets(pair, CODE, CAUSE, ("blend_weight",), blend_sentence, ADVICE))
    for facet, mode in FACETS.items():
        usual = (USUAL[facet],)
        found += differing_facets(pair, CODE, CAUSE, (facet,), _sentence(mode), ADVICE, usual, OWN)
    yield from departing(pair, CODE, CAUSE) if scaled_otherwise(pair) else found or departing(pair, CODE, CAUSE)


def _sentence(mode: str):  # type: ignore[no-untyped-def]
    def sentence(x: Side, value: object, y: Side, other: object) -> str:
        uses = verb(x, "normalises", "normalise")
        return f"In {mode} {names(x)} {uses} with {_words(value)}, {names(y)} with {_words(other)}."

    return sentence


def blend_sentence(x: Side, value: object, y: Side, other: object) -> str:
    return f"The batch weighs {number(value)} in the blend that normalises {names(x)}, {number(other)} in {names(y)}."


def _words(value: object) -> str:
    """A source in plain words; of two that the outputs do not tell apart, both."""
    known = {
        "batch": "the batch's statistics",
        "blend": "a blend of batch and running statistics",
        "none": "nothing",
        "running-before": "the running statistics",
        "running-after": "the running statistics as this very forward leaves them",
    }
    return " or ".join(known.get(each, f"the {each} statistics") for each in str(value).split(" or "))


def check_cell(cell: CellView) -> Iterator[Finding]:
    yield from sees_neighbours(cell)
    own = cell.own_inside
    none = tuple(source.layer for source in sources(cell) if not source.tracked and source.layer not in own)
    if none and cell.case.network.model is not None:
        yield keeping_none(cell, none)
    for source in sources(cell):
        if source.layer in none and cell.case.network.model is not None:
            continue
        if source.layer in own:
            continue  # it is no rule of the framework's, and was played by itself (diagnosis/whole.py)
        if source.training and wholly_frozen(cell, source.layer, source.event) is not None:
            continue  # BN401 says it: freezing put the layer into inference
        if source.training and kept_in_eval(cell, source):
            continue  # frozen: the network's own train() or forward() keeps it in eval
        facet = "train_normaliser" if source.training else "eval_normaliser"
        mode = FACETS[facet]
        used = "the running statistics" if source.weight < 0.01 else "the batch's statistics"
        used += " as this very forward leaves them" if source.after else ""
        if 0.01 <= source.weight <= 0.99:
            used = f"a blend, {number(source.weight)} of it the batch's statistics"
        verbed = verb(cell.members, "normalises", "normalise")
        kind, whose = _kind(cell, facet, source)
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind=kind,
            title=f"In {mode} {names(cell.members)} {verbed} {source.layer} with {used}.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=source.layer,
            event=source.event,
            quantity="output",
            departs=cell.target if whose else "",
            departs_from=whose,
            evidence={"weight of the batch": source.weight, "fit residual": source.residual},
            advice=ADVICE,
        )


def keeping_none(cell: CellView, layers: tuple[str, ...]) -> Finding:
    """As ``check`` says it of a model (rules/holdings/settings): chosen for all layers, or a slip in some of them."""
    assert cell.trace is not None
    everywhere = not any(cell.trace.get(layer, "running_mean") is not None for layer in cell.trace.layers)
    who = of_all(layers, cell.trace)
    return Finding(
        code=CODE,
        cause=CAUSE,
        kind="convention" if everywhere else "hazard",
        title=f"{names(cell.members)}: {who} {'keeps' if len(layers) == 1 else 'keep'} no running statistics: in eval, "
        "too, a sample's output depends on the samples next to it.",
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        layer=layers[0],
        quantity="output",
        evidence={"layers": len(layers)},
        advice="keep running statistics (track_running_stats=True) where single samples are evaluated",
        accounts=tuple((layer, "output") for layer in layers[1:]),
    )


def kept_in_eval(cell: CellView, source: Source) -> bool:
    """Whether a layer of a whole network ran in eval in a training forward: all of the network was put into training,
    so that it is the network itself that keeps the layer there. (diagnosis/kept says so.)"""
    trace = cell.trace
    return (
        trace is not None
        and cell.case.network.model is not None
        and played.mode(trace, source.layer, source.event) == 0
    )


def sees_neighbours(cell: CellView) -> Iterator[Finding]:
    """BatchNorm layers that give a sample another output in another batch, from the very same input bits."""
    for found in in_batches(cell):
        norms = [place for place in dependent(cell, found) if found.norms[place]]
        if not norms:
            continue
        first, worst = norms[0], found.worst
        own = found.own[:, first]
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=f"In eval {names(cell.members)} {verb(cell.members, 'normalises', 'normalise')} with the batch's "
            f"statistics: a sample's output depends on the samples next to it, L1 {number(float(found.l1[worst]))} "
            f"between batches of {found.sizes[worst]} and {found.largest}, far above rounding. {len(norms)} of "
            f"{int(found.norms.sum())} BatchNorm layers do; the first is {found.layers[first]}.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=found.layers[first],
            event=found.event,
            quantity="output",
            evidence={
                **found.distances,
                "BatchNorm layers that depend on the batch": len(norms),
                "own difference of the first": float(own[np.isfinite(own)].max()),
            },
            advice="keep running statistics (track_running_stats=True) where single samples are evaluated",
        )


def _kind(cell: CellView, facet: str, source: Source) -> tuple[Kind, str]:
    """Against its documentation or its own measured habit it is a defect; eval on the batch is a hazard by design."""
    seen = "batch" if source.weight > 0.99 else "running" if source.weight < 0.01 else "blend"
    documented = cell.documented.get(facet)
    usual = cell.convention.value(facet) if cell.convention is not None else None
    if not source.tracked or cell.case.network.model is not None:
        return "hazard", ""  # the user's own forward may have switched this layer: no framework is to blame for that
    if documented is not None and not str(documented).startswith(seen):
        return "defect", "documentation"
    if usual is not None and not same(usual, seen) and not str(usual).startswith(seen):
        return "defect", "itself"
    return ("convention" if source.training else "hazard"), ""


def check_holding(holding: Holding) -> list[Finding]:
    """Layers of a model that keep no running statistics."""
    return of_holding(holding, CODE, CAUSE, [settings.untracked(holding)])


def check_life(life: Life) -> list[Finding]:
    """Layers without running statistics that are evaluated."""
    said = of_life(life, CODE, CAUSE, [reach.batch_in_eval(life), reach.ignores_eval(life)])
    return [*said, *about_departures(life, CODE, CAUSE, another_source)]


def another_source(found: Departure) -> tuple[str, str]:
    due = "the batch's" if found.mode == "training" else "the running statistics"
    return f"In {found.mode} {{who}} normalise{{s}} with {_words(found.value)}, and not with {due}.", OWN
