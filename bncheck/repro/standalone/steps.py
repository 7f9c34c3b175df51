"""A program's events, annotated for a script (which forwards a backward goes through) and folded into loops. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bncheck.repro.standalone.subject import Subject
from bncheck.scenario import RECORDING

LONGEST_CYCLE = 12
LEAST_REPEATS = 3


@dataclass(frozen=True)
class Step:
    """One event. ``tape`` is how a forward joins the forwards of its backward: "" never, "only", "first", "next".

    ``through`` are the (input, batch) a backward goes back through; ``keep``: once more after this.
    """

    event: int
    op: str
    input: str
    batch: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    status: str = "ok"
    guarded: bool = False  # raised here or on the other side
    tape: str = ""
    through: tuple[tuple[str, int], ...] = ()
    keep: bool = False
    ends: int = 0  # number of the step that ends here; 0: none does
    watched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """Steps written once and played ``repeats`` times; ``strides`` is how far each one's batches move per turn."""

    steps: tuple[Step, ...]
    repeats: int = 1
    strides: tuple[int, ...] = ()
    ends: int = 0  # steps of the program that end within one turn


def annotate(subject: Subject) -> list[Step]:
    """Every event with what the recording says of it; a backward that was skipped stays, so that it can be said."""
    # Behind the last event that both sides played alike nothing is looked at: the other side was at another program.
    ends = {event: number for number, event in enumerate(subject.case.step_ends, 1) if event < subject.compared}
    guarded = {*subject.refused_here, *subject.refused_there}
    steps: list[Step] = []
    pending: list[int] = []
    last: list[int] = []
    for index, event in enumerate(subject.case.events):
        status = subject.trace.events[index].status
        step = Step(
            event=index,
            op=event.op,
            input=event.input,
            batch=event.batch,
            arguments=dict(event.arguments),
            status=status,
            guarded=index in guarded,
            ends=ends.get(index, 0),
            watched=subject.watched(index),
        )
        if event.op in RECORDING and status == "ok":
            pending.append(index)
        elif event.op == "backward" and status != "skipped":
            if pending:
                last, pending = pending, []
                for position, forward in enumerate(last):
                    tape = "only" if len(last) == 1 else ("next" if position else "first")
                    steps[forward] = replace(steps[forward], tape=tape)
            through = tuple((steps[forward].input, steps[forward].batch) for forward in last)
            step = replace(step, through=through, keep=back_again(subject, index))
        steps.append(step)
    return steps


def back_again(subject: Subject, index: int) -> bool:
    """True if the program goes back through the same forwards once more, as the worker decides it."""
    later = zip(subject.case.events[index + 1 :], subject.trace.events[index + 1 :], strict=False)
    ops = (event.op for event, record in later if record.status not in ("skipped", "unsupported"))
    return next((op for op in ops if op == "backward" or op in RECORDING), "") == "backward"


def fold(steps: Sequence[Step]) -> list[Block]:
    """Runs of the same events become loops; everything else stays straight."""
    blocks: list[Block] = []
    position = 0
    while position < len(steps):
        period, repeats = best_cycle(steps, position)
        cycle = tuple(steps[position : position + period])
        following = steps[position + period : position + 2 * period]
        moves = tuple(
            b.batch - a.batch if not a.through else shift(a, b) for a, b in zip(cycle, following, strict=False)
        )
        blocks.append(Block(steps=cycle, repeats=repeats, strides=moves, ends=sum(step.ends > 0 for step in cycle)))
        position += period * repeats
    return blocks


def best_cycle(steps: Sequence[Step], start: int) -> tuple[int, int]:
    """(period, repeats) that covers most from ``start``; (1, 1) where nothing repeats often enough."""
    best = (1, 1)
    for period in range(1, min(LONGEST_CYCLE, (len(steps) - start) // LEAST_REPEATS) + 1):
        repeats = 1
        while all_alike(steps, start, period, repeats):
            repeats += 1
        if repeats >= LEAST_REPEATS and period * repeats > best[0] * best[1]:
            best = (period, repeats)
    return best


def all_alike(steps: Sequence[Step], start: int, period: int, turn: int) -> bool:
    if start + (turn + 1) * period > len(steps):
        return False
    return all(
        alike(steps[start + k], steps[start + k + period], steps[start + k + turn * period], turn)
        for k in range(period)
    )


def alike(first: Step, second: Step, now: Step, turn: int) -> bool:
    """Whether ``now`` is ``first`` again, its batches moved ``turn`` times as far as ``second``'s."""

    def plain(step: Step) -> Step:
        return replace(step, event=0, batch=0, ends=int(step.ends > 0), through=tuple((n, 0) for n, _ in step.through))

    if plain(first) != plain(now) or len(first.through) != len(second.through):
        return False
    moved = now.batch == first.batch + turn * (second.batch - first.batch)
    step = shift(first, second)
    return moved and all(b[1] - a[1] == turn * step for a, b in zip(first.through, now.through, strict=True))


def shift(first: Step, second: Step) -> int:
    return second.through[0][1] - first.through[0][1] if first.through and second.through else 0


def affine(start: int, stride: int, variable: str = "i") -> str:
    """``start + stride·i`` as Python writes it."""
    if not stride:
        return str(start)
    term = variable if stride == 1 else f"{stride} * {variable}"
    return term if not start else f"{term} + {start}"
