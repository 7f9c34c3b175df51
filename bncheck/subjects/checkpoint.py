"""What a checkpoint holds, judged from the file alone: no framework, nothing executed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bncheck.checkpoints.normalisers import UNJUDGED
from bncheck.checkpoints.recognise import Checkpoint, read_checkpoint
from bncheck.diagnosis.alone import judge_holding
from bncheck.errors import UsageError
from bncheck.finding import KINDS, Finding
from bncheck.gate.shortfall import Shortfall
from bncheck.life import Held, Holding
from bncheck.report.plain_text import plural
from bncheck.run_folder.answer import MOST, Answer, Row
from bncheck.run_folder.folder import create_run_folder
from bncheck.run_folder.results import Results, TargetResult
from bncheck.subjects.conclusion import conclude, results_of, slug_of

if TYPE_CHECKING:
    from bncheck.playing.progress import Listener
    from bncheck.subjects.asked import Asked

COLUMNS = ("channels", "running mean", "running variance", "counter", "dtype", "verdict")


@dataclass(frozen=True)
class Checked:
    """What is said of a file; ``missed`` where it holds nothing to judge."""

    answer: Answer
    findings: tuple[Finding, ...]
    target: TargetResult
    missed: tuple[Shortfall, ...] = ()


def check_checkpoint(path: Path, asked: Asked, listener: Listener) -> tuple[Path, Results]:
    """Read, judge and write down; (the run folder, what was found). CheckpointError for what cannot be read."""
    refuse_options(asked)
    checked = look_at(path, asked.thing.text)
    run = create_run_folder(asked.out)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results = results_of(checked.answer, checked.findings, (checked.target,), asked.command, created)
    conclude(run, checked.answer, results, asked.formats, listener.say, asked.bar, checked.missed)
    return run, results


def refuse_options(asked: Asked) -> None:
    given = {"--weights": asked.weights, "--data": asked.data, "--with": asked.given, "--input": asked.inputs}
    for word, value in given.items():
        if value:
            raise UsageError(
                f"{asked.thing.text} is a checkpoint, and {word} is for code.",
                f"Leave out {word}; with the model: bncheck check model.py:build --weights {asked.thing.text}",
            )


def look_at(path: Path, subject: str) -> Checked:
    """What a checkpoint holds, and what is wrong with it."""
    states = [in_its_place(each) for each in read_checkpoint(path)]
    target = target_of(path, states[0])
    found = [finding for holding in states for finding in judge_holding(holding)]
    findings = tuple(placed(finding, target, subject) for finding in found)
    layers = [layer for holding in states for layer in holding.layers]
    first = states[0]
    answer = Answer(
        verb="check",
        subject=subject,
        headline=headline(states, findings),
        columns=COLUMNS,
        rows=tuple(row_of(layer, findings) for layer in layers[:MOST]),
        notes=tuple(notes(states)),
    )
    return Checked(
        answer=answer,
        findings=findings,
        target=target,
        missed=() if layers else (nothing(first),),
    )


def look_at_object(holding: Holding, note: str) -> Checked:
    """What a model of this process holds, and what is wrong with it; ``note`` says how else it could be looked at."""
    name = holding.name
    found = tuple(replace(each, case=name) for each in judge_holding(holding))
    answer = Answer(
        verb="check",
        subject=name,
        headline=headline([holding], found),
        columns=COLUMNS,
        rows=tuple(row_of(layer, found) for layer in holding.layers[:MOST]),
        notes=(note,),
    )
    target = TargetResult(name=name, slug=name, backend=holding.framework, device="")
    return Checked(answer=answer, findings=found, target=target)


def target_of(path: Path, holding: Holding) -> TargetResult:
    """The file as the one column of the run."""
    said = {"format": holding.format}
    name = path.name or str(path)
    return TargetResult(name=name, slug=slug_of(name), backend=holding.framework, device="", environment=said)


def placed(finding: Finding, target: TargetResult, subject: str) -> Finding:
    """A finding about a state, in the run of its file."""
    departs = target.name if finding.departs else ""
    return replace(finding, targets=(target.name,), departs=departs, scenario="check", case=slug_of(subject))


def in_its_place(checkpoint: Checkpoint) -> Holding:
    """The layers of a state inside a file carry its path, so that a finding names the right one of two."""
    holding = checkpoint.holding
    if not checkpoint.path:
        return holding
    layers = tuple(replace(layer, layer=f"{checkpoint.path}:{layer.layer}") for layer in holding.layers)
    return replace(holding, layers=layers)


def unjudged(holding: Holding) -> list[str]:
    """What was said of layers that the file names and that are none as it holds them."""
    return [remark for remark in holding.remarks if remark.endswith(UNJUDGED)]


def nothing(holding: Holding) -> Shortfall:
    if unjudged(holding):
        return Shortfall(
            f"{holding.name} holds no BatchNorm that can be judged, though it names one",
            "see the notes; save the statistics of each layer as one array of real numbers, one per channel",
            "there is nothing to judge",
        )
    if any(key.endswith("num_batches_tracked") for key in holding.others):
        return Shortfall(
            f"{holding.name} counts the batches of BatchNorm layers, and holds no running mean and variance of them",
            "save the whole state of the model (state_dict), and check that file",
            "there is nothing to judge",
        )
    return Shortfall(
        f"{holding.name} holds no BatchNorm: {plural(len(holding.others), 'tensor')}, and no running mean and variance "
        "among them",
        "where BatchNorm was folded into convolutions, hold the file against the one before: bncheck diff BEFORE AFTER",
        "there is nothing to judge",
    )


def headline(states: Sequence[Holding], findings: Sequence[Finding]) -> str:
    count = sum(len(holding.layers) for holding in states)
    if not count and not findings:
        return f"It holds no BatchNorm{' that can be judged' if any(map(unjudged, states)) else ''}."
    if findings:
        more = len(findings) - 1
        return findings[0].title.rstrip(".") + (f" (and {plural(more, 'more finding')})" if more else "") + "."
    layers = plural(count, "BatchNorm layer")
    return f"{layers}, nothing wrong with what {'it holds' if count == 1 else 'they hold'}."


def notes(states: Sequence[Holding]) -> Iterable[str]:
    first = states[0]
    where = [holding.name.partition(":")[2] for holding in states if ":" in holding.name]
    yield f"Read as {first.format}, without any framework; nothing in the file was executed."
    if len(states) > 1:
        yield f"It holds {len(states)} states with BatchNorm, each judged by itself: {', '.join(where)}."
    elif where:
        yield f"The weights lie in {where[0]!r}."
    for holding in states:
        yield from holding.remarks[:20]


def row_of(layer: Held, findings: Sequence[Finding]) -> Row:
    own = [found for found in findings if layer.layer in {place for place, _ in found.places}]
    worst = min(own, key=lambda found: KINDS.index(found.kind), default=None)
    mean, var = layer.running_mean, layer.running_var
    size = 0 if mean is None else mean.size
    counter = "" if layer.counter is None else f"{layer.counter:g}"
    cells = (str(size), span(mean), span(var), counter, dtype_of(layer), worst.cause if worst else said_of(layer))
    return Row(layer=layer.layer[:1000], cells=cells, mark=worst.kind if worst else "agrees")


def span(values: np.ndarray | None) -> str:
    """The range of an array as people read it; NaN and Inf are counted apart.

    >>> span(np.array([0.5, -1.0, np.nan]))
    '-1 … 0.5, 1 NaN or Inf'
    """
    if values is None:
        return "none"
    numbers = values[np.isfinite(values)].astype(np.float64)
    bad = values.size - numbers.size
    shown = f"{numbers.min():.3g} … {numbers.max():.3g}" if numbers.size else ""
    shown = f"{numbers.min():.3g}" if numbers.size and numbers.min() == numbers.max() else shown
    return ", ".join(filter(None, (shown, f"{bad} NaN or Inf" if bad else "")))


def dtype_of(layer: Held) -> str:
    array = layer.running_var
    return layer.dtypes.get("running_var") or ("" if array is None else str(array.dtype))


def said_of(layer: Held) -> str:
    mean, var = layer.running_mean, layer.running_var
    if mean is not None and var is not None and not mean.any() and (var == 1).all():
        return "at its start"
    return "in order"
