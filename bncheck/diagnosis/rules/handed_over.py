"""The state in which a network of the user's own was handed over: what its BatchNorm layers hold before any event.

A framework's own layer starts as its documentation says; a network that was built, loaded and set up by a person may
start from a state that nobody chose. Each question is about one cell, needs no partner, and names all layers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.lived.in_place import NEW_BATCH
from bncheck.diagnosis.rules.wording import names, number, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.scenario import op_of
from bncheck.trace import Array, Trace

# A batch that lies further off than this many of its deviations, or whose variance is off by this factor, is not what
# a mean of 0 and a variance of 1 describe.
FAR, UNLIKE = 0.5, 2.0
SHOWN = 4  # layers that a sentence names


@dataclass(frozen=True)
class Start:
    """What is said of some layers of one network as it was handed over."""

    layers: tuple[str, ...]
    title: str
    quantity: str
    advice: str
    event: int | None = None


def found(cell: CellView, code: str, cause: str, asks: Callable[[CellView, Trace], Start | None]) -> list[Finding]:
    """The finding about a user's own network, at most one."""
    if cell.case.network.model is None or cell.trace is None or not cell.trace.layers:
        return []
    start = asks(cell, cell.trace)
    if start is None:
        return []
    return [
        Finding(
            code=code,
            cause=cause,
            kind="hazard",
            title=f"{cell.own_code} in {names(cell.members)}: {start.title}",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=start.layers[0],
            event=start.event,
            quantity=start.quantity,
            evidence={"layers": listed(start.layers), "of": len(cell.trace.layers)},
            advice=start.advice,
        )
    ]


def modes_mixed(cell: CellView, trace: Trace) -> Start | None:
    """Some layers in training and others in eval before anything has set a mode."""
    bare = next((event for event, record in enumerate(trace.events) if record.op == "forward"), None)
    if bare is None or any(op_of(record.op).mode for record in trace.events[:bare]):
        return None
    flags = {layer: int(rows[bare]) for layer in trace.layers if (rows := trace.get(layer, "training")) is not None}
    training = tuple(layer for layer, flag in flags.items() if flag == 1)
    still = [layer for layer, flag in flags.items() if flag == 0]
    if not training or not still:
        return None
    return Start(
        layers=training,
        title=(
            f"{of_all(training, trace)} {be(training)} in training mode when it is handed over, and the others in eval "
            f"mode. A bare forward (event {bare + 1}) normalises {them(training)} with the batch and moves the "
            f"statistics."
        ),
        quantity="running_mean",
        advice="call eval() on the whole network before you evaluate, or train() before you train, and set single "
        "layers after that",
        event=bare,
    )


def counter_reset(cell: CellView, trace: Trace) -> Start | None:
    """A counter of 0 beside statistics that have moved."""
    reset = tuple(
        layer
        for layer in trace.layers
        if first(trace, layer, "counter") == 0
        and not (initial(trace, layer) or empty(trace, layer) or never_counts(trace, layer))
    )
    if not reset:
        return None
    return Start(
        layers=reset,
        title=(
            f"the counter of {of_all(reset, trace)} is 0 before any event, though the running statistics are not the "
            f"initial ones. A cumulative average (momentum=None) would begin anew with the next batch."
        ),
        quantity="counter",
        advice="load num_batches_tracked together with the statistics",
    )


def never_trained(cell: CellView, trace: Trace) -> Start | None:
    """An evaluation with the statistics of a new layer, on data that are unlike them."""
    if begins_to_train(trace):
        return None
    for event, record in enumerate(trace.events):
        if op_of(record.op).mode == "train":
            return None
        new = tuple(layer for layer in trace.layers if initial(trace, layer, event))
        if record.op == "eval_forward" and any(unlike(trace, layer, event) for layer in new):
            mean, low, high = reach(trace, new, event)
            return Start(
                layers=new,
                title=(
                    f"eval_forward (event {event + 1}) normalises {of_all(new, trace)} with the statistics of a new "
                    f"layer, mean 0 and variance 1. What reaches {them(new)} has means up to {number(mean)} and "
                    f"variances from {number(low)} to {number(high)}."
                ),
                quantity="running_mean",
                advice="load the running statistics with the weights (torch: load_state_dict with strict=True says "
                "what is missing), or train before you evaluate",
                event=event,
            )
    return None


def odd_weight(cell: CellView, trace: Trace) -> Start | None:
    """A weight of the new batch that reads like the weight of the old average, or that leaves nothing to average."""
    old = cell.backend not in NEW_BATCH  # whose momentum is the weight of the old average
    own = cell.own_inside  # a layer of the user's may call either share momentum: what it does says which
    held = {layer: first(trace, layer, "momentum") for layer in trace.layers if layer not in own}
    weights = {layer: 1 - value if old else value for layer, value in held.items() if value is not None}
    odd = {layer: weight for layer, weight in weights.items() if weight >= 0.5 or weight == 0}
    if not odd:
        return None
    weight = next(iter(odd.values()))
    alike = tuple(layer for layer, other in odd.items() if other == weight)
    value = held[alike[0]]
    rest = f"After each step {number(100 * (1 - weight))} % of the old average is left"
    other = f"; {'PyTorch' if old else 'Keras'}'s momentum of {number(value)} is {number(1 - (value or 0.0))} here"
    usual = f"{rest}{'' if weight == 0.5 else other}."  # one half is the same in both senses
    ends = {0.0: "The running statistics never move.", 1.0: "They are those of the last batch alone."}
    return Start(
        layers=alike,
        title=f"momentum of {of_all(alike, trace)} is {number(value)}. {ends.get(weight, usual)}",
        quantity="momentum",
        advice="0.99 and 0.9 are usual, of the old average"
        if old
        else "0.1 is the usual weight of a new batch in torch",
    )


# ------------------------------------------------------------------------------------------------------ words, numbers


def first(trace: Trace, layer: str, name: str) -> float | None:
    """A scalar as it was held before any event; None where it is not held, or NaN."""
    rows = trace.get(layer, name)
    if rows is None or not len(rows):
        return None
    value = float(np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)[0].mean())
    return value if np.isfinite(value) else None


def initial(trace: Trace, layer: str, event: int = 0) -> bool:
    """Whether a layer holds a mean of 0 and a variance of 1 in every channel when an event begins."""
    mean, var = trace.get(layer, "running_mean"), trace.get(layer, "running_var")
    if mean is None or var is None or event >= len(mean):
        return False
    return not np.any(mean[event]) and bool(np.all(np.asarray(var[event]) == 1))


def empty(trace: Trace, layer: str) -> bool:
    """Whether a layer begins with zeros throughout, as an average does that is divided by its own weights."""
    rows = [trace.get(layer, name) for name in ("running_mean", "running_var")]
    return not any(row is None or np.any(row[0]) for row in rows)


def never_counts(trace: Trace, layer: str) -> bool:
    """Whether the statistics move in these events and the counter does not: PyTorch's InstanceNorm has one in vain."""
    mean, counter = trace.get(layer, "running_mean"), trace.get(layer, "counter")
    if mean is None or counter is None or len(mean) != len(counter):
        return False
    return not np.any(counter) and bool(np.any(np.asarray(mean) != mean[0]))


def begins_to_train(trace: Trace) -> bool:
    """Whether all that its layers hold is what new ones hold, and the program trains them: it looks at a network before
    its first step. Gamma may begin with zeros, as at the end of a residual branch."""
    if not any(op_of(record.op).mode == "train" for record in trace.events):
        return False
    for layer in trace.layers:
        gamma, beta = (trace.get(layer, name) for name in ("gamma", "beta"))
        scaled = gamma is not None and bool(len(gamma)) and not np.isin(gamma[0], (0, 1)).all()
        shifted = beta is not None and bool(len(beta)) and bool(np.any(beta[0]))
        if not initial(trace, layer) or first(trace, layer, "counter") not in (0, None) or scaled or shifted:
            return False
    return True


def batch(trace: Trace, layer: str, event: int) -> tuple[Array, Array] | None:
    rows = [trace.get(layer, name) for name in ("input_mean", "input_var")]
    if rows[0] is None or rows[1] is None or not np.isfinite(rows[0][event] + rows[1][event]).all():
        return None
    return np.asarray(rows[0][event], dtype=np.float64), np.asarray(rows[1][event], dtype=np.float64)


def unlike(trace: Trace, layer: str, event: int) -> bool:
    """Whether a batch is not what a mean of 0 and a variance of 1 describe."""
    facts = batch(trace, layer, event)
    if facts is None:
        return False
    mean, var = facts
    return bool((np.abs(mean) > FAR).any() or (var > UNLIKE).any() or (var < 1 / UNLIKE).any())


def reach(trace: Trace, layers: Sequence[str], event: int) -> tuple[float, float, float]:
    """(largest |mean|, least and largest variance) of what reaches some layers."""
    facts = [found for layer in layers if (found := batch(trace, layer, event)) is not None]
    means, variances = (np.concatenate(part) for part in zip(*facts, strict=True))
    return float(np.abs(means).max()), float(variances.min()), float(variances.max())


def of_all(layers: Sequence[str], trace: Trace) -> str:
    return f"{len(layers)} of {len(trace.layers)} BatchNorm layers ({listed(layers)})"


def listed(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - SHOWN} more" if len(layers) > SHOWN else ""
    return ", ".join(layers[:SHOWN]) + more


def be(layers: Sequence[str]) -> str:
    return "is" if len(layers) == 1 else "are"


def them(layers: Sequence[str]) -> str:
    return "it" if len(layers) == 1 else "them"
