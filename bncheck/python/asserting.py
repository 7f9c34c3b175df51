"""Assertions for a user's tests: each fails with the layers, the cause and the fix, as an AssertionError.

They look at the user's own modules, in the user's process, and leave modes as they were. ``assert_frozen`` and
``assert_statistics_move`` run the step that they are given: what it changes stays changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bncheck.errors import UsageError
from bncheck.python.hands import side
from bncheck.python.result import Result
from bncheck.python.watching import Watch, one_sentence
from bncheck.report.plain_text import plural

STATISTICS = ("running_mean", "running_var")
NAMED = 4  # layers that a message names
# Float32 through a deep network: of the largest value, far below what a batch's own statistics change.
SAME = 1e-4
CLOSE = 1e-4
STEPS = 4


def assert_clean(thing: Any) -> None:
    """Fail for each defect, hazard or unexplained observation. ``thing``: a result of ``bncheck.watch``, ``judge``,
    ``check`` or ``diff``, or a model or checkpoint, which is then checked."""
    if isinstance(thing, (Result, Watch)):
        faults = thing.faults
    else:
        from bncheck.python.checking import check

        faults = check(thing).faults
    if faults:
        raise AssertionError("\n".join([f"{plural(len(faults), 'finding')}:", *map(said, faults)]))


def said(fault: Any) -> str:
    return f"  {one_sentence(fault)}"


def assert_frozen(model: Any, step: Callable[[], object]) -> None:
    """Fail where a step changes running statistics, gamma or beta of any normalising layer of the model.

    ``requires_grad = False`` freezes gamma and beta alone: running statistics move in every training forward."""
    hands = side(model)
    before = known(hands.states(model), model)
    step()
    after = hands.states(model)
    moved = {name: changes(before[name], after[name]) for name in before if name in after}
    moved = {name: found for name, found in moved.items() if found}
    if not moved:
        return
    statistics = [name for name, found in moved.items() if any(key in STATISTICS for key in found)]
    if statistics:
        name = statistics[0]
        largest = max(size for key, size in moved[name].items() if key in STATISTICS)
        in_training = [each for each in statistics if after[each]["training"]]
        fix = (
            "  → call eval() on the layers that are to stay (again after every model.train()); requires_grad = False "
            "does not hold statistics"
            if in_training
            else "  → something other than a forward wrote to them: load_state_dict, an averaged copy, a hand edit"
        )
        raise AssertionError(
            f"The running statistics of {listed(statistics)} moved in this step, in {name} by up to {largest:.3g}."
            f"\n{fix}"
        )
    name, found = next(iter(moved.items()))
    raise AssertionError(
        f"{' and '.join(found)} of {listed(list(moved))} moved in this step, in {name} by up to "
        f"{max(found.values()):.3g}.\n  → set requires_grad = False on them, and leave them out of the optimiser: "
        "weight decay moves what gets no gradient"
    )


def assert_statistics_move(model: Any, step: Callable[[], object]) -> None:
    """Fail where running statistics of any layer stand still in a step that is to train them."""
    hands = side(model)
    before = known(hands.states(model), model)
    step()
    after = hands.states(model)
    held = [name for name in before if all(key in before[name] for key in STATISTICS)]
    still = [
        name for name in held if name in after and not any(k in STATISTICS for k in changes(before[name], after[name]))
    ]
    if not held:
        raise AssertionError("No layer of this model keeps running statistics (track_running_stats=False).")
    if still:
        asleep = [name for name in still if not after[name]["training"]]
        deaf = [name for name in still if after[name]["training"] and after[name]["momentum"] == 0]
        why = (
            f"{listed(asleep)} {'is' if len(asleep) == 1 else 'are'} in eval mode: call model.train() before the step"
            if asleep
            else f"momentum is 0 in {listed(deaf)}: a new batch weighs nothing"
            if deaf
            else "no forward of theirs ran in this step, or a batch gave exactly what they hold"
        )
        raise AssertionError(f"The running statistics of {listed(still)} stood still in this step.\n  → {why}")


def assert_same_in_any_batch(model: Any, batch: Any, tolerance: float = SAME) -> None:
    """Fail where the same samples get other outputs in eval when they come in other batches: whole, by halves, one by
    one. ``tolerance`` is of the largest output."""
    hands = side(model)
    size = hands.length(batch)
    if size < 2:
        raise UsageError("One sample cannot come in other batches.", "Give a batch of at least two.")
    parts = [(0, size), (0, size // 2), (size // 2, size), *((k, k + 1) for k in range(min(size, 4)))]
    outputs, inner = hands.in_eval(model, [hands.samples(batch, *part) for part in parts])
    whole = outputs[0]
    for (start, stop), found in zip(parts[1:], outputs[1:], strict=True):
        for one, other in zip(whole, found, strict=True):
            off = distance(one, other, start, stop, size)
            if off > tolerance:
                first = first_by_itself(parts, inner, size, tolerance)
                where = (
                    f"{first} is the first layer that gives the same input other outputs"
                    if first
                    else ("no normalising layer does it by itself: look at what else sees the whole batch")
                )
                raise AssertionError(
                    f"In eval samples {start} to {stop - 1} get other outputs alone than among {size}: off by "
                    f"{off:.3g} of the largest.\n  → {where}; in eval() a BatchNorm layer with running "
                    "statistics looks at no neighbour"
                )


def distance(whole: NDArray[Any], part: NDArray[Any], start: int, stop: int, size: int) -> float:
    """Largest difference, of the largest value; 0 for what has no samples along its first axis."""
    if not whole.ndim or len(whole) != size or part.shape[1:] != whole.shape[1:] or len(part) != stop - start:
        return 0.0
    same = whole[start:stop]
    if not np.array_equal(np.isfinite(same), np.isfinite(part)):
        return float("inf")
    scale = float(np.abs(same[np.isfinite(same)]).max(initial=0.0))
    off = float(np.abs(np.where(np.isfinite(same), same - part, 0.0)).max(initial=0.0))
    return off / scale if scale else float(off > 0)


def first_by_itself(
    parts: Sequence[tuple[int, int]], inner: Sequence[Mapping[str, Any]], size: int, tolerance: float
) -> str:
    """The first normalising layer whose input agrees and whose output does not."""
    for name, calls in inner[0].items():
        for (start, stop), found in zip(parts[1:], inner[1:], strict=True):
            for (x, y), (part_x, part_y) in zip(calls, found.get(name, ()), strict=False):
                if (
                    distance(x, part_x, start, stop, size) <= tolerance
                    and distance(y, part_y, start, stop, size) > tolerance
                ):
                    return name
    return ""


def assert_equivalent(
    layer: Any, reference: Any, *, shape: Sequence[int], tolerance: float = CLOSE, seed: int = 0, **given: Any
) -> None:
    """Fail where a layer does not do what another does on the same numbers: outputs and gradients in training, running
    statistics after each step, outputs in eval. ``layer`` and ``reference``: classes (or functions) that take the
    number of channels, ``shape[1]``; ``given`` is passed to whichever takes it."""
    hands = side(reference)
    channels = int(shape[1])
    for each in (layer, reference):
        if hands.is_made(each):
            raise UsageError(
                f"assert_equivalent makes both layers itself, and got a {type(each).__name__} that is made already.",
                f"Give the class, {type(each).__name__}, or a function that takes the number of channels.",
            )
    names = [getattr(each, "__name__", str(each)) for each in (layer, reference)]
    ours, theirs = (
        hands.lived(hands.made(kind, channels, given), tuple(shape), STEPS, seed) for kind in (layer, reference)
    )
    n = int(np.prod(shape)) // channels
    for step, (one, two) in enumerate(zip(ours, theirs, strict=True)):
        where = "in eval" if step == STEPS else f"in training, step {step + 1}"
        for key in two:
            if key not in one:
                raise AssertionError(f"{names[0]} is not equivalent to {names[1]}: it holds no {key}.")
            if one[key].shape != two[key].shape:
                raise AssertionError(
                    f"{names[0]} is not equivalent to {names[1]}: {key} has the shape {one[key].shape}, "
                    f"not {two[key].shape}."
                )
            off = distance(two[key], one[key], 0, len(two[key]), len(two[key]))
            if off > tolerance:
                raise AssertionError(
                    f"{names[0]} is not equivalent to {names[1]}: {key} {where} is off by {off:.3g} of the largest"
                    f"{ratio(one, two, key, n, step, given)}."
                )


def ratio(
    one: Mapping[str, NDArray[Any]],
    two: Mapping[str, NDArray[Any]],
    key: str,
    n: int,
    step: int,
    given: Mapping[str, Any],
) -> str:
    """What the running variance after one step says of the divisor: the same factor in every channel."""
    weight = given.get("momentum", 0.1)
    if key != "running_var" or step or n < 2 or not isinstance(weight, (int, float)):
        return ""
    with np.errstate(all="ignore"):
        # From a start of 1 the average holds (1 − weight) + weight · variance of the batch.
        factor = (one[key] - two[key]) / (two[key] - (1 - weight))
    for name, value in {f"{n}/{n - 1}": 1 / (n - 1), f"{n - 1}/{n}": -1 / n}.items():
        if np.allclose(factor, value, rtol=1e-2, atol=1e-6):
            says = "n − 1 where the other divides by n" if value > 0 else "n where the other divides by n − 1"
            return f": {name} times as much of each batch: it divides by {says}"
    return ""


def known(found: Mapping[str, Any], model: Any) -> Mapping[str, Any]:
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no layer that normalises by running statistics.", "Give the model."
        )
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """Quantity → largest change; NaN to NaN is none."""
    found = {}
    for key in (*STATISTICS, "gamma", "beta"):
        if key in before and key in after and not np.array_equal(before[key], after[key], equal_nan=True):
            with np.errstate(all="ignore"):
                found[key] = float(np.nanmax(np.abs(after[key] - before[key]), initial=0.0)) or float("nan")
    return found


def listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
