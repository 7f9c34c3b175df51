"""All layers of one life together: which did what is documented, and which evaluation is far off, and by what cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.lived.evaluation import LATE, Evaluation, last_evaluation, pooled
from bncheck.diagnosis.lived.gap import WINDOW, length
from bncheck.diagnosis.lived.in_place import Conduct, conduct, with_eps
from bncheck.diagnosis.lived.record import Record, read
from bncheck.diagnosis.rules.roundoff import HALF
from bncheck.life import LayerLife, Life

# An output that is off by its own deviation: what evaluation adds is as large as what the layer says. Healthy trainings
# stay below a half (measured: tests/watched; batches of 4, 20 steps, high learning rates included).
MATTERS = 1.0
# No channel counts for more than this many deviations when it is asked whether a gap matters: one dead channel is none.
MOST_OF_A_CHANNEL = 3.0
# Where most of an average is still its start, half of that is said: no chance and no drift does it.
EARLY_LEFT, EARLY = 0.5, 0.5
MOST = 0.5  # a cause makes most of a gap, and what it is mended with leaves less than that
# Training batches do not come as far from each other as evaluation data that are unlike them.
UNLIKE, FEWEST_SAMPLES = 3.0, 8
# One evaluation by itself may be of one kind of data, of which training batches hold many.
ALONE = 2.0
# How far layers before it may be off, as a share, before a layer's own input is what they have made of it.
HANDED_ON = 0.1
# Of an average that still holds more of its start than this, nothing else is said: it has only begun.
BEGUN = 0.05
CAUSES = {
    "start": "few-updates",
    "noise": "batch-weight",
    "lag": "stale-state",
    "mixture": "mixed-batches",
    "shift": "data-shift",
}


@dataclass(frozen=True)
class Lived:
    """One layer that could be read."""

    life: LayerLife
    record: Record
    conduct: Conduct
    evaluation: Evaluation | None

    @property
    def name(self) -> str:
        return self.life.name


def lived(life: Life) -> tuple[Lived, ...]:
    """The layers of a life that kept moments, in the order in which the last evaluation came to them."""
    found: tuple[Lived, ...] = life.once("lived", measure)
    return found


def measure(life: Life) -> tuple[Lived, ...]:
    found = []
    for layer in life.layers:
        record = read(layer)
        if record is not None:
            record = with_eps(record) if layer.own else record
            done = conduct(record, life.framework, synchronised=life.world > 1 and "sync" in layer.kind.lower())
            with np.errstate(all="ignore"):
                found.append(Lived(layer, record, done, last_evaluation(life, record, done)))
    return tuple(sorted(found, key=order))


def order(layer: Lived) -> int:
    ev = layer.evaluation
    return int(layer.record.index[ev.places[0]]) if ev is not None else int(layer.record.index[0])


def far_off(life: Life) -> Mapping[str, Sequence[Lived]]:
    """Cause → the layers whose last evaluation is far off by it, in order. (Statistics that nothing ever moved are no
    matter of size: see unmoved.)"""
    found: Mapping[str, Sequence[Lived]] = life.once("far off", name_gaps)
    return found


def name_gaps(life: Life) -> Mapping[str, Sequence[Lived]]:
    found: dict[str, list[Lived]] = {}
    before = 0.0  # the largest gap of the layers before
    for layer in lived(life):
        ev = layer.evaluation
        if ev is None or ev.gap is None:
            continue
        cause = cause_of(life, layer, ev, before) if matters(ev) else None
        if cause is not None:
            found.setdefault(cause, []).append(layer)
        before = max(before, ev.gap.size)
    return found


def matters(ev: Evaluation) -> bool:
    """Whether the output is off by more than it varies, in more than single channels."""
    early = ev.average is not None and EARLY_LEFT <= ev.average.left < 1.0
    bound = EARLY if early else MATTERS
    if ev.gap is None or not ev.gap.size >= bound:
        return False
    whole = ev.batch.point(ev.running) - ev.batch.point(ev.batch.own)
    return length(whole, MOST_OF_A_CHANNEL) >= bound


def cause_of(life: Life, layer: Lived, ev: Evaluation, before: float) -> str | None:
    """The cause that makes most of a gap, where it is beyond doubt."""
    assert ev.gap is not None
    record, average = layer.record, ev.average
    if average is None:
        return None
    coarse = (
        record.u_state >= HALF and not average.seen.all()
    )  # what was not kept is read off a state that rounds it away
    part = max(CAUSES, key=lambda name: ev.gap.share(name) if ev.gap is not None else 0.0)
    if ev.gap.share(part) < MOST:
        return None
    unmoved = not record.training[: ev.places[0]].any() or average.updates == 0
    if unmoved or ev.reset or ev.steps_since > LATE or ev.current is None:
        return None
    mended = ev.left <= MOST * ev.gap.size
    if part == "start":
        return CAUSES[part] if mended or average.left >= EARLY_LEFT else None
    if average.left >= EARLY_LEFT or coarse:
        return None
    if part == "noise":
        return CAUSES[part] if mended else None
    if part == "lag":
        return CAUSES[part] if mended and ev.gap.parts[part] > ev.spread and average.left <= BEGUN else None
    if part == "mixture":
        return CAUSES[part]
    return CAUSES[part] if unlike(ev) and before <= HANDED_ON * ev.gap.size else None


def unlike(ev: Evaluation) -> bool:
    """Whether evaluation data are farther from the training batches than those are from each other, all alike."""
    assert ev.gap is not None
    if ev.samples < FEWEST_SAMPLES or ev.left < MATTERS:
        return False
    # Statistics of few samples are off by more than those of many, and one channel by more than the mean of many.
    few = max(1.0, float(np.sqrt(ev.batch_samples / ev.samples)))
    chance = (UNLIKE + 2.0 / np.sqrt(ev.record.life.channels)) * few * ev.spread
    alone = not np.isfinite(ev.scatter)
    return ev.left > chance and (ev.left > ALONE if alone else ev.scatter < ev.left / 2)


# Statistics that nothing has moved are off where what they meet is this far away, in deviations.
OFF = 0.2
FORWARDS = 3  # in training, that do not move them


def unmoved(life: Life) -> tuple[Lived, ...]:
    """Layers whose statistics no training forward moved, though some ran; and what reaches them is unlike those."""
    return tuple(layer for layer in lived(life) if stood_still(layer))


def stood_still(layer: Lived) -> bool:
    record = layer.record
    ran = record.training & record.sound & record.tracked
    spans = [span for span in layer.life.spans if span.training]
    if int(ran.sum()) < FORWARDS or (record.moved & ran).any() or any(span.moved for span in spans):
        return False
    last = np.flatnonzero(ran)[-WINDOW:]
    batch = pooled(record, last)
    off = batch.apart((record.m0[last[-1]], record.v0[last[-1]]), batch.own)
    # A layer that was trained elsewhere may be kept as it is on purpose, where it fits.
    return off >= (OFF if initial(record, int(last[-1])) else MATTERS)


def initial(record: Record, place: int) -> bool:
    """Whether a moment begins with a mean of 0 and a variance of 1 in every channel."""
    return not record.m0[place].any() and bool((record.v0[place] == 1.0).all())
