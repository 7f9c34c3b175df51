"""The last evaluation of a layer, its gap, and what the training batches say of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bncheck.diagnosis.lived.averaged import Average, averaged
from bncheck.diagnosis.lived.gap import WINDOW, Evaluated, Gap, Statistics, chain, kinds_of, last_ones, nearest, split
from bncheck.diagnosis.lived.in_place import Conduct
from bncheck.diagnosis.lived.record import Record
from bncheck.life import Life
from bncheck.trace import Array

# What sets statistics or weights without a forward: what was averaged before says nothing of what is evaluated then.
RESETS = ("load", "jump", "convert")
# Steps of the optimiser between the last training forward and an evaluation that are no phase of their own.
LATE = 2
# Gamma or beta moved this many times as far as in any single step of before: other weights were put in.
SWAPPED = 10.0


@dataclass(frozen=True)
class Evaluation:
    """The evaluations of one layer behind its last training forward (or the last ones before), taken together."""

    record: Record
    places: Array  # their moments
    batch: Evaluated  # all of their values
    running: Statistics
    average: Average | None
    gap: Gap | None
    current: Statistics | None  # what training batches have at the end
    left: float  # the gap that is left with those, in deviations
    spread: float  # how far one of the latest training batches is from them, root mean square
    scatter: float  # how far one of the evaluations is from all of them
    samples: float  # in the evaluations
    batch_samples: float  # in a training batch
    steps_since: int  # steps of the optimiser since the last training forward
    reset: bool  # something set the state, or other weights were put in, since


def last_evaluation(life: Life, record: Record, done: Conduct) -> Evaluation | None:
    """None where a layer was not evaluated with running statistics, or they normalise nothing."""
    places = last_phase(record)
    if not len(places):
        return None
    whole = of_places(life, record, done, places)
    apart = by_kind(whole, done.divisor or "n") if whole is not None else []
    if len(apart) < 2:
        return whole
    found = [ev for each in apart if (ev := of_places(life, record, done, each)) is not None and ev.gap is not None]
    return max(found, key=lambda ev: ev.gap.size if ev.gap is not None else 0.0, default=whole)


def by_kind(ev: Evaluation, divisor: str) -> list[Array]:
    """The evaluations of each kind of batches, where training batches are of several kinds in turn: all of them pooled
    would be the very mixture that the running statistics are of."""
    kinds = kinds_of(ev.batch, ev.average, divisor) if ev.average is not None else []
    if not kinds:
        return []
    batches = [pooled(ev.record, ev.places[k : k + 1]) for k in range(len(ev.places))]
    near = [nearest(batch, kinds) for batch in batches]
    groups = [ev.places[[kind is each for each in near]] for kind in kinds]
    return [places for places in groups if len(places)]


def of_places(life: Life, record: Record, done: Conduct, places: Array) -> Evaluation | None:
    """Some evaluations in a row, taken together."""
    at = int(places[0])
    batch = pooled(record, places)
    running = (record.m0[at], record.v0[at])
    if not np.isfinite(batch.scale) or not (running[1] + batch.eps > 0).all():
        return None
    divisor, resets, anew = done.divisor or "n", resets_of(life, record), reset_at(life, record)
    average = average_at(record, done, at, resets, anew)
    stages = stages_of(record, done, batch, at, resets, None, anew)
    current, spread = latest(batch, average, divisor) if average is not None else (None, np.inf)
    if current is None and average is not None:
        current = unaveraged(record, at, batch)
    trained = np.flatnonzero(record.training[:at])
    behind = last_trained(record, at, trained)
    return Evaluation(
        record=record,
        places=places,
        batch=batch,
        running=running,
        average=average,
        gap=split(batch, running, stages),
        current=current,
        left=batch.apart(current, batch.own) if current is not None else np.inf,
        spread=spread,
        scatter=scatter(batch, record, places),
        samples=float(np.maximum(record.samples[places], 1.0).sum()),
        batch_samples=float(np.median(np.maximum(record.samples[trained], 1.0))) if len(trained) else 1.0,
        steps_since=steps_since(record, at),
        reset=any(behind < index <= record.index[at] for index in resets) or exchanged(record, at, trained),
    )


def gaps(life: Life, record: Record, done: Conduct) -> list[tuple[int, Gap]]:
    """(index, gap) of every evaluation that was kept, split down to the chance of its own batch: see lived/gap.py."""
    found: list[tuple[int, Gap]] = []
    resets, anew = resets_of(life, record), reset_at(life, record)
    evaluates = np.flatnonzero(~record.training & record.sound & record.tracked & ~record.moved)
    while len(evaluates):
        at = int(evaluates[0])
        alike = ((record.m0[evaluates] == record.m0[at]) & (record.v0[evaluates] == record.v0[at])).all(axis=1)
        alike &= (record.gamma[evaluates] == record.gamma[at]).all(axis=1)
        places, evaluates = evaluates[alike], evaluates[~alike]
        phase = pooled(record, places)
        within = (record.var[places] * (record.n[places] / record.n[places].sum())[:, None]).sum(axis=0)
        for place in places.tolist():
            batch = pooled(record, np.array([place]))
            # A chain goes through the phase where the statistics are known that it starts from.
            stages = stages_of(record, done, batch, place, resets, (phase.mean, within), anew)
            gap = split(batch, (record.m0[place], record.v0[place]), stages)
            if gap is not None and np.isfinite(gap.size):
                found.append((int(record.index[place]), gap))
    return sorted(found, key=lambda item: item[0])


def stages_of(
    record: Record,
    done: Conduct,
    batch: Evaluated,
    at: int,
    resets: Sequence[int],
    phase: Statistics | None,
    anew: Collection[int],
) -> list[tuple[str, Statistics]]:
    """The chain of an evaluation. Statistics that something else has set since they last moved are first put back to
    what they were; batches that trained while they stood still stand between the last averaged ones and this one."""
    divisor, before = done.divisor or "n", before_set(record, at, resets)
    first: list[tuple[str, Statistics]] = []
    if before is not None:
        place, held, left = before
        first = [("set", held)]
        rows = [
            np.where(np.arange(len(record))[:, None] == at, new, old)
            for new, old in zip(held, (record.m0, record.v0), strict=True)
        ]
        record, resets = replace(record, m0=rows[0], v0=rows[1]), left
        if not record.training[: place + 1].any():
            return [*first, ("start", batch.own)]
    average = average_at(record, done, at, resets, anew)
    if average is None:
        return [*first, ("start", batch.own)]
    return [*first, *chain(batch, average, divisor, None, phase, while_frozen(record, batch, at, divisor))]


def before_set(record: Record, at: int, resets: Sequence[int]) -> tuple[int, Statistics, list[int]] | None:
    """(the last moment before something set the statistics of a moment, what it left, resets before that); None where
    nothing did since the last training forward, or nothing is known of before."""
    trained = np.flatnonzero(record.training[:at] & record.moved[:at])
    behind = last_trained(record, at, trained)
    since = [index for index in resets if behind < index <= record.index[at]]
    if not since:
        return None
    known = np.flatnonzero((record.index[:at] < min(since)) & record.tracked[:at])
    if not len(known):
        return None
    place = int(known[-1])
    held = record.m1[place], record.v1[place]
    alike = np.array_equal(held[0], record.m0[at]) and np.array_equal(held[1], record.v0[at])
    return None if alike else (place, held, [index for index in resets if index < min(since)])


def while_frozen(record: Record, batch: Evaluated, at: int, divisor: str) -> Statistics | None:
    """What the latest batches have that trained in eval mode since the last one that was averaged; None where there
    are none, or so few steps passed that nothing was frozen."""
    trained = np.flatnonzero(record.training[:at] & record.moved[:at])
    if not len(trained) or record.gradients[at] or steps_since(record, at) <= LATE:
        return None
    last = int(trained[-1])
    still = np.arange(last + 1, at)
    met = still[(record.gradients & ~record.training & record.sound)[last + 1 : at]][-WINDOW:]
    if not len(met):
        return None
    fair = (batch.n - 1.0) / batch.n * record.n[met] / np.maximum(record.n[met] - 1.0, 1.0)
    return record.mean[met].mean(axis=0), (record.var[met] * fair[:, None]).mean(axis=0)


def resets_of(life: Life, record: Record) -> list[int]:
    """Indices of forwards before which something other than a forward set the state of a layer."""
    own = record.life.name
    return [each.index for each in life.happenings if each.what in RESETS and (not each.layers or own in each.layers)]


def reset_at(life: Life, record: Record) -> frozenset[int]:
    """Those of them that put a layer back to what a new one holds."""
    own = record.life.name
    jumps = [each for each in life.happenings if each.what == "jump" and own in each.layers]
    return frozenset(each.index for each in jumps if each.detail.get("by") == "reset")


def last_trained(record: Record, at: int, trained: Array) -> int:
    """Index of the last forward in training before a moment: of ``trained``, those that were kept, or counted alone."""
    found = [int(record.index[trained[-1]])] if len(trained) else []
    index = int(record.index[at])
    found += [span.last_index for span in record.life.spans if span.training and span.last_index < index]
    return max(found, default=-1)


def average_at(record: Record, done: Conduct, at: int, resets: Sequence[int], anew: Collection[int]) -> Average | None:
    """What the running statistics of a moment consist of; None where a layer's steps are not understood."""
    if done.odd_step.any():
        return None
    factor = record.n / np.maximum(record.n - 1.0, 1.0) if done.divisor == "n-1" else np.ones(len(record))
    return averaged(record, at, done.weight, factor, resets, anew)


def steps_since(record: Record, at: int) -> int:
    """Steps of the optimiser between the last training forward, kept or not, and a moment; 0 where none was seen."""
    steps = record.step[:at][record.training[:at]].tolist()
    index = int(record.index[at])
    steps += [span.last_step for span in record.life.spans if span.training and span.last_index < index]
    return int(record.step[at]) - max(steps) if steps else 0


def last_phase(record: Record) -> Array:
    """Places of the last evaluations in a row that were normalised with the running statistics."""
    evaluates = ~record.training & record.sound & record.tracked & ~record.moved
    places = np.flatnonzero(evaluates)
    if not len(places):
        return places
    trained = np.flatnonzero(record.training[: places[-1]])
    first = int(trained[-1]) if len(trained) else -1
    found = places[places > first]
    # Gradients tell batches that train, while this layer stands still, from evaluations.
    unlike = found[record.gradients[found] != record.gradients[found[-1]]]
    found = found[found > unlike[-1]] if len(unlike) else found
    # Statistics or parameters that change in between make another evaluation.
    for name in ("m0", "v0", "gamma", "beta"):
        rows = getattr(record, name)[found]
        found = found[(rows == rows[-1]).all(axis=1)]
    return found


def pooled(record: Record, places: Array) -> Evaluated:
    """The values of several forwards as one batch; parameters are those of the last."""
    n = record.n[places]
    share = (n / n.sum())[:, None]
    mean = (share * record.mean[places]).sum(axis=0)
    var = (share * (record.var[places] + (record.mean[places] - mean) ** 2)).sum(axis=0)
    last = int(places[-1])
    eps = float(record.eps[last])
    return Evaluated(
        mean=mean,
        var=var,
        n=float(n.sum()),
        gamma=record.gamma[last],
        beta=record.beta[last],
        eps=eps if np.isfinite(eps) else 0.0,
    )


def latest(batch: Evaluated, average: Average, divisor: str) -> tuple[Statistics | None, float]:
    """(what the latest training batches have on average, how far one of them is from that, root mean square)."""
    if not len(average.weight):
        return None, np.inf
    recent = last_ones(average)
    own = (batch.n - 1.0) / batch.n
    fair = own if divisor == "n-1" else own * average.n / np.maximum(average.n - 1.0, 1.0)
    var = average.var * np.reshape(fair, (-1, 1))
    current = (average.mean[recent].mean(axis=0), var[recent].mean(axis=0))
    seen = np.flatnonzero(average.seen)[-WINDOW:]  # also where others lie between them: that makes them differ more
    if len(seen) < WINDOW // 2:
        return current, np.inf
    # As training sees it: far away every difference of deviations would count many times.
    there = replace(batch, mean=current[0], var=current[1])
    return current, float(np.sqrt(np.mean([there.apart((average.mean[j], var[j]), current) ** 2 for j in seen])))


def unaveraged(record: Record, at: int, batch: Evaluated) -> Statistics | None:
    """What the latest training batches have on average where none of them went into the running statistics."""
    seen = np.flatnonzero(record.training[:at] & record.sound[:at])[-WINDOW:]
    if not len(seen):
        return None
    fair = (batch.n - 1.0) / batch.n * record.n[seen] / np.maximum(record.n[seen] - 1.0, 1.0)
    return record.mean[seen].mean(axis=0), (record.var[seen] * fair[:, None]).mean(axis=0)


def exchanged(record: Record, at: int, trained: Array) -> bool:
    """Whether gamma or beta went further since the last training forward than a step of the optimiser takes them."""
    if len(trained) < 2:
        return False
    for name in ("gamma", "beta"):
        rows = getattr(record, name)
        steps = np.diff(record.step[trained])
        each = np.abs(np.diff(rows[trained], axis=0)).max(axis=1) / np.maximum(steps, 1)
        now = float(np.abs(rows[at] - rows[trained[-1]]).max()) / max(
            int(record.step[at] - record.step[trained[-1]]), 1
        )
        if now > SWAPPED * float(each[-16:].max(initial=0.0)) + 1e-6 * float(np.abs(rows[at]).max(initial=0.0)):
            return True
    return False


def scatter(batch: Evaluated, record: Record, places: Array) -> float:
    """How far one evaluation is from all of them, root mean square; inf where there is only one."""
    if len(places) < 2:
        return np.inf
    apart = [batch.apart((record.mean[k], record.var[k]), batch.own) for k in places]
    return float(np.sqrt(np.mean(np.square(apart))))
