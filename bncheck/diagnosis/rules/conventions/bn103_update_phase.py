"""Two targets move their running statistics at different moments.

Signature: on a segment of training forwards alone one side's statistics stand still (a = 0) and they move once a
backward (or a flush, or an explicit update) runs; the other side moves in forward. A weight of 0 stands still on
every segment, and a frozen layer shows in its output, which then follows the running statistics.
On all-ones input from the state (0, 1) this looks as if mean and variance were swapped. Nothing is swapped: the side
that moves reaches mean 1 and variance 0, the other never left (0, 1) (apache/mxnet#18751).

Where both move in backward, one may meet several forwards behind it in another order than the other: mxnet 1.9.1 goes
from the last to the first, and from the first on where the input has a gradient of its own (attach_grad).

What to do: run a backward (and wait for asynchronous work) before you read, save or evaluate with the statistics,
or accept that forwards without a backward leave no trace in them. In TensorFlow 1 run the UPDATE_OPS; in functional
frameworks keep the state that the call returns.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from bncheck.diagnosis.rules.attributed import Side, differing_facets
from bncheck.diagnosis.rules.identifiability import not_identifiable
from bncheck.diagnosis.rules.movement import moving_ops
from bncheck.diagnosis.rules.wording import names, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding

CODE = "BN103"
CAUSE = "update-phase"
EXPLAINS = ("statistics", "counter", "outputs")
FOLLOWS_FROM = ("refused",)
NEEDS_CONVENTIONS = True
ADVICE = "where backward moves the statistics, call backward() before you read, save or evaluate with them"
FREE = "compare with gradient recording on, or update the statistics inside it on both sides"
ORDER = "call backward() after each forward, where the order of their batches in the average matters"
NEVER = "make the update happen: run the update operations, or keep the state that the training call returns"
EVAL = (
    "save the statistics before you evaluate on the side whose eval moves them, and let a layer of your own move "
    "nothing in eval"
)


def check_pair(pair: PairView) -> Iterable[Finding]:
    found = list(
        differing_facets(pair, CODE, CAUSE, ("update_on",), sentence, advice(measured(pair)), usual=("forward",))
    )
    found += differing_facets(pair, CODE, CAUSE, ("update_without_grad",), sentence_without_grad, FREE, usual=("yes",))
    if not found:  # both move in backward, and only the order in which it meets several forwards differs
        found += differing_facets(
            pair, CODE, CAUSE, ("backward_order",), sentence_of_order, ORDER, usual=("last forward first",)
        )
    return found or seen_in_traces(pair)


def measured(pair: PairView) -> frozenset[str]:
    """The kinds of event after which either side's statistics move, "never" among them."""
    values = [value for item in pair.attributions for value in item.values.get("update_on", ())]
    return frozenset(word for value in values for word in str(value).split("+"))


def advice(moments: frozenset[str]) -> str:
    """What to do about sides of which one at least moves its statistics at other moments than in forward."""
    in_eval = any(moment.startswith("eval") for moment in moments)
    later = not in_eval or bool(moments & {"backward", "flush"})
    fits = {NEVER: "never" in moments, EVAL: in_eval, ADVICE: later and "never" not in moments}
    return "; ".join(text for text, yes in fits.items() if yes)


def sentence(x: Side, value: Any, y: Side, other: Any) -> str:
    return (
        f"{names(x)} {verb(x, 'moves its', 'move their')} running statistics {when(value)}, {names(y)} {when(other)}."
    )


def sentence_without_grad(x: Side, value: Any, y: Side, other: Any) -> str:
    moves = {"yes": "moves", "no": "does not move"}
    return (
        f"A training forward without gradient recording {moves.get(str(value), str(value))} the running statistics of "
        f"{names(x)}, and {moves.get(str(other), str(other))} those of {names(y)}."
    )


def sentence_of_order(x: Side, value: Any, y: Side, other: Any) -> str:
    return (
        f"A backward through several forwards moves the running statistics of {names(x)} {value}, of {names(y)} "
        f"{other}. The batch that comes last counts most."
    )


def when(value: Any) -> str:
    return "never" if value == "never" else "in " + " and ".join(str(value).split("+"))


def seen_in_traces(pair: PairView) -> Iterator[Finding]:
    """Without measured conventions: both sides move, and no event moves both."""
    if pair.a.convention is not None or pair.b.convention is not None or pair.attributions:
        return
    for drift in pair.differing:
        if drift.quantity != "running_mean":
            continue
        ops_a, ops_b = (moving_ops(side, drift.layer) for side in (pair.a, pair.b))
        if not ops_a or not ops_b or ops_a & ops_b:
            continue
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="convention",
            title=f"{_moves(pair.a, ops_a)}, {_moves(pair.b, ops_b)}.",
            targets=targets(pair.a.members, pair.b.members),
            scenario=pair.case.scenario,
            case=pair.case.name,
            layer=drift.layer,
            event=drift.first_event,
            quantity=drift.quantity,
            evidence={"mean_abs": drift.mean_abs, "max_abs": drift.max_abs},
            advice=advice(ops_a | ops_b),
            not_identifiable=not_identifiable(pair, layer=drift.layer),
        )


def _moves(cell: CellView, ops: frozenset[str]) -> str:
    side = cell.members
    return f"{names(side)} {verb(side, 'moves its', 'move their')} running statistics in {' and '.join(sorted(ops))}"
