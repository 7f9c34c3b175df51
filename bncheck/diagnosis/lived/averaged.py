"""What is in the running statistics when an evaluation reads them: which batches, with which weight, and what is left
of the start.

An average of weights a_k is left·start + Σ W_k·u_k with W_k = a_k·Π(1 − a_j) over later j. Forwards that were not kept
are one **unseen** batch: between two kept states s and s' with keep = Π(1 − a) the batches between them had, weighted
as the average weighs them, (s' − keep·s)/(1 − keep). So the sum is exact whatever was left out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.lived.record import Record
from bncheck.trace import Array

Part = tuple[float, Array, Array, bool, int, float]  # weight when it is put in, mean, variance, seen, place, n


@dataclass(frozen=True)
class Average:
    """The parts of the running statistics before one moment. ``J`` batches, seen or unseen, in order."""

    start_mean: Array  # (C,)
    start_var: Array
    left: float  # weight of the start
    weight: Array  # (J,)
    mean: Array  # (J, C) of the batches
    var: Array  # (J, C) as averaged
    seen: Array  # (J,) bool; False: an unseen batch
    place: Array  # (J,) int: the moment it is, or that it ends before
    n: Array  # (J,) values per channel; of an unseen batch those of the last one seen
    step: Array  # (J,) of the optimiser, at that moment
    updates: int  # since the start

    @property
    def only_batches(self) -> tuple[Array, Array]:
        """(mean, variance) without the start."""
        share = self.weight / max(1.0 - self.left, 1e-300)
        return share @ self.mean, np.maximum(share @ self.var, 0.0)


def averaged(
    record: Record,
    at: int,
    weight: Array,
    factor: Array,
    restarts: Sequence[int],
    anew: Collection[int] = (),
) -> Average | None:
    """What the running statistics of a moment ``at`` consist of. ``weight`` (K,) of the new batch at each moment,
    ``factor`` (K,) that its variance is multiplied by when it is averaged, ``restarts`` indices of forwards before
    which something else has set them: what was averaged before is gone then; ``anew``: those of them that put back
    what a new layer holds. None where a step cannot be read."""
    trains = np.flatnonzero(record.training[:at] & record.tracked[:at] & record.moved[:at])
    reset = max([index for index in restarts if index <= record.index[at]], default=-1)
    trains = trains[record.index[trains] >= reset]
    if not np.isfinite(record.m0[at] + record.v0[at]).all():
        return None
    parts: list[Part] = []
    start, updates = None, 0
    last: int | None = None  # the moment before
    for k in [*trains.tolist(), at]:
        if start is None:
            first = since_new(record, k, weight) if reset in anew else None
            start = (record.m0[k], record.v0[k]) if first is None else (0.0 * record.m0[k], 0.0 * record.v0[k] + 1.0)
            if first is not None:
                parts.append(first[0])
                updates += first[1]
        elif last is not None and changed(record, last, k):
            keep, count = unseen(record, last, k, float(weight[last]))
            if not 0.0 <= keep < 1.0:
                return None
            mean = (record.m0[k] - keep * record.m1[last]) / (1 - keep)
            var = (record.v0[k] - keep * record.v1[last]) / (1 - keep)
            parts.append((1.0 - keep, mean, np.maximum(var, 0.0), False, k, float(record.n[last])))
            updates += count
        if k == at:
            break
        a = float(weight[k])
        if not 0.0 <= a <= 1.0 or not record.sound[k]:
            return None
        parts.append((a, record.mean[k], record.var[k] * factor[k], True, k, float(record.n[k])))
        updates += 1
        last = k
    assert start is not None
    shares = np.array([part[0] for part in parts])
    kept = np.append(np.cumprod((1.0 - shares)[::-1])[::-1][1:], 1.0) if parts else np.zeros(0)
    shape = (0, record.mean.shape[1])
    return Average(
        start_mean=start[0],
        start_var=start[1],
        left=float(np.prod(1.0 - shares)) if parts else 1.0,
        weight=shares * kept,
        mean=np.stack([part[1] for part in parts]) if parts else np.zeros(shape),
        var=np.stack([part[2] for part in parts]) if parts else np.zeros(shape),
        seen=np.array([part[3] for part in parts], dtype=bool),
        place=np.array([part[4] for part in parts], dtype=int),
        n=np.array([part[5] for part in parts]),
        step=record.step[[part[4] for part in parts]] if parts else np.zeros(0),
        updates=updates,
    )


def since_new(record: Record, k: int, weight: Array) -> tuple[Part, int] | None:
    """What a layer that was reset has averaged before moment k, as one unseen batch, and in how many updates; None
    where its counter, which begins at 0 again, says that there were none, or there is none."""
    count, trained = float(record.counter_before[k]), np.flatnonzero(record.training[:k] & record.moved[:k])
    if not np.isfinite(count) or count < 1 or not len(trained) or not np.isfinite(record.momentum[k]):
        return None
    last = int(trained[-1])
    keep = (1.0 - float(weight[last])) ** count
    if not 0.0 <= keep < 1.0:
        return None
    mean, var = record.m0[k] / (1 - keep), (record.v0[k] - keep) / (1 - keep)
    return (1.0 - keep, mean, np.maximum(var, 0.0), False, k, float(record.n[last])), int(count)


def changed(record: Record, last: int, k: int) -> bool:
    """Whether the statistics before moment k are not those that moment ``last`` left."""
    return bool((record.m0[k] != record.m1[last]).any() or (record.v0[k] != record.v1[last]).any())


def unseen(record: Record, last: int, k: int, weight: float) -> tuple[float, int]:
    """(what is kept, number of updates) of forwards between two moments that were not kept; NaN where it is not known
    how many there were."""
    counter, cumulative = float(record.counter[last]), not np.isfinite(record.momentum[k])
    count = float(record.counter_before[k]) - counter
    if np.isfinite(count):
        if count < 1 or (cumulative and counter <= 0):
            return np.nan, 0
        return (counter / float(record.counter_before[k]) if cumulative else (1.0 - weight) ** count), int(count)
    if cumulative:
        return np.nan, 0
    trained = sum(
        between(span.first_index, span.last_index, span.forwards, int(record.index[last]), int(record.index[k]))
        for span in record.life.spans
        if span.training and span.moved != 0
    )
    return ((1.0 - weight) ** trained, trained) if trained else (np.nan, 0)


def between(first: int, last: int, forwards: int, after: int, before: int) -> int:
    """How many of a span's forwards lie strictly between two indices, if they are evenly spread."""
    if last <= after or first >= before or forwards <= 0:
        return 0
    if forwards == 1:
        return 1
    pace = (last - first) / (forwards - 1)
    low, high = max(first, after + 1), min(last, before - 1)
    return int(np.floor((high - first) / pace + 1e-9) - np.ceil((low - first) / pace - 1e-9)) + 1
