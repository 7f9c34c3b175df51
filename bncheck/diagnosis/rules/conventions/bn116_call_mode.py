"""A layer that is called before anybody set a mode trains in one framework and infers in another.

Signature: the first forward runs in whatever mode a new layer is in. PyTorch, Paddle, MLX and Flax NNX train: the
output is normalised with the batch, and the statistics move. Keras, MXNet and tinygrad infer: the output is
x/sqrt(1 + eps), and nothing moves. Linen and Haiku refuse a call that does not say which. Momentum and eps have nothing
to do with it.

What to do: say the mode: layer(x, training=True) in Keras, autograd.record() in MXNet, module.train() or module.eval()
in PyTorch, Tensor.train() in tinygrad.
"""

from collections.abc import Iterator

from bncheck.diagnosis.rules.wording import names, targets
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.scenario import op_of

CODE = "BN116"
CAUSE = "call-mode"
EXPLAINS = ("statistics", "counter", "outputs", "gradients")
WORDS = {0: "inference", 1: "training"}
DOES = {0: "infers", 1: "trains"}


def check_pair(pair: PairView) -> Iterator[Finding]:
    event = bare_call(pair)
    modes = [mode_at(cell, event) for cell in (pair.a, pair.b)] if event is not None else [None]
    if event is None or None in modes or modes[0] == modes[1] or not pair.differing:
        return
    (a, mode), (b, other) = zip((pair.a, pair.b), modes, strict=True)
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="convention",
        title=f"A bare call {DOES[mode or 0]} in {names(a.members)} and {DOES[other or 0]} in {names(b.members)}: "
        f"no mode was set before event {event + 1}.",
        targets=targets(a.members, b.members),
        scenario=pair.case.scenario,
        case=pair.case.name,
        layer="",
        event=event,
        quantity="output",
        evidence={f"call_mode of {cell.target}": WORDS[mode or 0] for cell, mode in ((a, mode), (b, other))},
        advice="say the mode: layer(x, training=True) in Keras, autograd.record() in MXNet, module.train() in PyTorch",
    )


def bare_call(pair: PairView) -> int | None:
    """The first forward, if no event before it sets a mode."""
    ops = [op_of(event.op) for event in pair.case.events]
    first = next((t for t, op in enumerate(ops) if op.forward or op.mode is not None), None)
    return first if first is not None and ops[first].mode is None else None


def mode_at(cell: CellView, event: int) -> int | None:
    """The mode of all layers before an event: 0 or 1; None where they differ, hold none, or the event did not run."""
    if cell.trace is None or event >= len(cell.trace.events) or cell.trace.events[event].status != "ok":
        return None
    rows = [cell.trace.get(layer, "training") for layer in cell.trace.layers]
    modes = {int(row[event]) for row in rows if row is not None and event < len(row)}
    mode = modes.pop() if len(modes) == 1 else -1
    return mode if mode in WORDS else None
