"""An answer and the life behind it, made of literal numbers: three layers over 100 steps, of which one stands in eval
from step 40 on while its input drifts away. No framework, no recorder, no rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.finding import Finding
from bncheck.gate.bar import Bar, hold, write_verdict
from bncheck.life import Happening, LayerLife, Life, Span, Where
from bncheck.run_folder.answer import Answer, Row, write_answer
from bncheck.run_folder.results import Results, TargetResult, write_results
from bncheck.subjects.conclusion import results_of

STEPS = 100
EVAL_FROM = 40
HERE = Where("/home/ada/engine.py", 88, "evaluate", "model.eval()")
MADE = Where("/home/ada/model.py", 12, "__init__")
CALLED = Where("/home/ada/model.py", 40, "forward")


def moments(stuck_from: int = STEPS, drift: float = 0.0, channels: int = 4) -> dict[str, Any]:
    """One forward a step; the batch's mean is 1 + drift·step, its variance 1, the weight of a new batch 0.1."""
    step = np.arange(STEPS)
    mean = (1.0 + drift * step)[:, None] * np.ones(channels)
    held = np.zeros((STEPS + 1, channels))
    for k in range(STEPS):
        held[k + 1] = held[k] if k >= stuck_from else 0.9 * held[k] + 0.1 * mean[k]
    ones = np.ones((STEPS, channels))
    return {
        "index": 3 * step, "step": step, "training": (step < stuck_from).astype(np.int8),
        "n": np.full(STEPS, 2048), "input_mean": mean, "input_var": ones, "mean_before": held[:-1],
        "mean_after": held[1:], "var_before": ones, "var_after": ones,
    }  # fmt: skip


def span(first: int, last: int, training: bool, moved: int) -> Span:
    return Span(3 * first, 3 * last, first, last, last - first + 1, training, n=(2048, 2048), moved=moved,
                called_from=CALLED)  # fmt: skip


def layer(name: str, **more: Any) -> LayerLife:
    facts: dict[str, Any] = {
        "name": name, "kind": "BatchNorm2d", "channels": 4, "moments": moments(),
        "spans": (span(0, STEPS - 1, True, STEPS),), "registered": True, "names": (name,), "made_at": MADE,
    }  # fmt: skip
    return LayerLife(**{**facts, **more})


STUCK = layer(
    "layer1.bn1",
    moments=moments(EVAL_FROM, drift=0.05),
    spans=(span(0, EVAL_FROM - 1, True, EVAL_FROM), span(EVAL_FROM, STEPS - 1, False, 0)),
)

LIFE = Life(
    program="train.py",
    framework="torch",
    version="2.13.0",
    layers=(layer("stem.bn"), STUCK, layer("head.bn")),
    happenings=(
        Happening("eval", 120, EVAL_FROM, ("layer1.bn1",), HERE, {"module": "layer1"}),
        Happening("load", 60, 20, (), Where("train.py", 31, "main"), {"missing": 0}),
        Happening("end", 300, STEPS, detail={"code": 0}),
    ),
    steps=STEPS,
    forwards=3 * STEPS,
)

LEAK = Finding(
    code="BN401",
    cause="mode-leak",
    kind="hazard",
    title="evaluate() at engine.py:88 set layer1.bn1 to eval and nobody set train() again: "
    "60 steps with frozen statistics",
    targets=("torch",),
    scenario="watch",
    case="train.py",
    layer="layer1.bn1",
    quantity="running_mean",
    evidence={"steps in eval": 60, "set by": "engine.py:88"},
    advice="Call model.train() after evaluate().",
)

ANSWER = Answer(
    verb="watch",
    subject="train.py",
    headline="train.py: 1 of 3 BatchNorm layers stopped learning its statistics at step 40.",
    columns=("mode", "n", "moved", "gap"),
    rows=(
        Row("stem.bn", ("training", "2048", "100 of 100", "0.00")),
        Row("layer1.bn1", ("eval since step 40", "2048", "40 of 100", "3.00"), "hazard"),
        Row("head.bn", ("training", "2048", "100 of 100", "0.00")),
    ),
    notes=("2 processes never ran a normalising layer.",),
)

TARGETS = (TargetResult("torch", "torch", "torch", version="2.13.0", python="3.11.9", environment={"numpy": "2.4.6"}),)


def results(answer: Answer = ANSWER, findings: tuple[Finding, ...] = (LEAK,)) -> Results:
    return results_of(answer, findings, TARGETS, "bncheck watch -- python train.py", "2026-01-02T03:04:05Z")


def many(count: int, quiet: str = "") -> Answer:
    """Three layers and ``count`` − 3 more of which nothing is to be said."""
    rows = tuple(Row(f"layer{k}.bn", ("training", "2048", "100 of 100", "0.01"), quiet) for k in range(3, count))
    return replace(ANSWER, rows=(*ANSWER.rows, *rows))


def write_answered(folder: Path, answer: Answer = ANSWER, findings: tuple[Finding, ...] = (LEAK,)) -> Results:
    """A run folder as ``conclude`` leaves it, but for the reports."""
    from datetime import date

    folder.mkdir(parents=True, exist_ok=True)
    found = results(answer, findings)
    write_answer(answer, folder)
    write_results(found, folder)
    write_verdict(hold(found, Bar(), date(2026, 1, 2)), folder)
    return found
