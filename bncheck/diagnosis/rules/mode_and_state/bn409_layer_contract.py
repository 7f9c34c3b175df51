"""A layer of your own is unlike the built-in one when moved, converted, copied, saved or in eval.

Signature: the numbers of the case may be right, but .to(float64) leaves a buffer behind, deepcopy raises, statistics in
plain attributes are lost on save and load, eval moves statistics or looks at the batch. Each action is tried on fresh
layers, on the own one and on the built-in one; what the built-in layer refuses as well is no fault. torch[timed] adds
how many times slower a training step is.

What to do: register what the layer keeps with register_buffer, compute in the input's dtype and on its device, update
buffers in place under torch.no_grad().
"""

from collections.abc import Iterator, Mapping
from typing import Any

from bncheck.diagnosis.rules.wording import names, number, targets
from bncheck.evidence import CellView
from bncheck.finding import BUILT_IN, Finding

CODE = "BN409"
CAUSE = "layer-contract"
EXPLAINS = ()
ADVICE = "keep state in register_buffer, compute in the input's dtype, update buffers in place under torch.no_grad()"
NAMES_ALONE = f"load_state_dict of {BUILT_IN}"
NAMES = (
    "name the state as PyTorch does, one value per channel: weight, bias, running_mean, running_var, "
    "num_batches_tracked"
)
NEW = "a new layer"
START = "start as the built-in layer does: running_mean and bias at 0, running_var and weight at 1"
RANDOM = "draw nothing where self.training is false: evaluation then gives one answer"
EVAL = "in eval (not self.training) normalise with running_mean and running_var, and move nothing"
FINE = ("ok", "unavailable")


def check_cell(cell: CellView) -> Iterator[Finding]:
    notes: Any = cell.notes.get("cell")
    layers = notes.get("custom") if isinstance(notes, Mapping) else None
    for layer, said in layers.items() if isinstance(layers, Mapping) else ():
        if isinstance(said, Mapping):
            yield from broken(cell, str(layer), said)
            yield from slower(cell, str(layer), said)


def broken(cell: CellView, layer: str, said: Mapping[str, Any]) -> Iterator[Finding]:
    moves = said.get("moves")
    answers = {str(key): str(value) for key, value in moves.items()} if isinstance(moves, Mapping) else {}
    faults = {key: answer for key, answer in answers.items() if not answer.startswith(FINE)}
    if not faults:
        return
    first, answer = next(iter(faults.items()))
    # A layer may keep other things under other names; it then only does not exchange files with the built-in one.
    names_only = set(faults) == {NAMES_ALONE}
    more = f"; and {len(faults) - 1} more" if len(faults) > 1 else ""
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="convention" if names_only else "hazard",
        title=f"{names(cell.members)} behaves unlike {BUILT_IN} in "
        f"{len(faults)} of {len(answers)} actions. {told(first, answer)}{more}.",
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        layer=layer,
        event=None,
        quantity="",
        departs=cell.target,
        departs_from=BUILT_IN,
        evidence=dict(faults),
        advice="; ".join(what_to_do(faults)),
    )


def told(action: str, answer: str) -> str:
    return f"A new layer {answer}" if action == NEW else f"{action}: {answer}"


def what_to_do(faults: Mapping[str, str]) -> list[str]:
    """The advice that fits the faults, each once."""
    own = {NEW: START, NAMES_ALONE: NAMES, "eval": RANDOM if "random" in faults.get("eval", "") else EVAL}
    return list(dict.fromkeys(own.get(action, ADVICE) for action in faults))


def slower(cell: CellView, layer: str, said: Mapping[str, Any]) -> Iterator[Finding]:
    time = said.get("time")
    held = [time.get(key) for key in ("own_seconds", "builtin_seconds", "ratio")] if isinstance(time, Mapping) else []
    if len(held) != 3 or not all(isinstance(value, int | float) for value in held):
        return
    own, builtin, ratio = (float(value) for value in held if isinstance(value, int | float))
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="convention",
        title=f"{names(cell.members)} takes {number(ratio)} times as long as {BUILT_IN} for a "
        f"training step: {number(1e6 * own)} against {number(1e6 * builtin)} µs.",
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        layer=layer,
        event=None,
        quantity="seconds",
        evidence={"times slower": ratio, "own µs": 1e6 * own, "built-in µs": 1e6 * builtin},
        advice=f"use {BUILT_IN} where speed matters, or one of its kernels (torch.batch_norm)",
    )
