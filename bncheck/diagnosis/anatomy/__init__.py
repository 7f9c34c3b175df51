"""A layer of the user's taken apart by its own values: what it does with each of them, as far as it can be told.

What a trace says of each batch in one mean and one variance shows the usual rules (``fit/``). A layer of the user's may
normalise chunks, halves, samples or masked parts of a batch on their own, mix several statistics or put an activation
behind: that shows only value by value. ``dissect`` looks for the simplest rules that make every output within rounding;
``departures`` says in which of them it parts from BatchNorm, and with what share. Nothing that does not reproduce what
was recorded is said. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bncheck.diagnosis.anatomy import memory
from bncheck.diagnosis.anatomy.affine import changed
from bncheck.diagnosis.anatomy.departures import departures, reached
from bncheck.diagnosis.anatomy.dissect import dissect
from bncheck.diagnosis.anatomy.groups import Group, moments
from bncheck.diagnosis.anatomy.lines import show, solve
from bncheck.diagnosis.anatomy.replay import Parts, gradients
from bncheck.diagnosis.anatomy.values import Life, lives_of
from bncheck.diagnosis.rules.movement import forwards_behind
from bncheck.evidence import Anatomy
from bncheck.scenario import Case
from bncheck.trace import GRADIENTS, Array, Trace

__all__ = ["anatomy_of", "seen_through"]
LINES = ("used_mean", "used_invstd", "used_residual")


def anatomy_of(case: Case, trace: Trace, divisor: str = "n-1") -> Mapping[str, Anatomy]:
    """Layer → what it does, of the layers whose values were kept and whose every output a rule makes. ``divisor`` is
    that of the variance which the framework's own layer averages."""
    found = {}
    for life in lives_of(case, trace, divisor):
        parts = dissect(life)
        if parts is None:
            continue
        name = life.layer.name
        recorded = {key: rows for key in GRADIENTS if (rows := trace.get(name, key)) is not None}
        followed = gradients(parts, life, recorded, forwards_behind(trace))
        if parts.affine is not None and not all(followed.values()):
            continue  # another way makes the same outputs of these gammas and betas
        values, used = reached(parts, life)
        found[name] = Anatomy(
            layer=name,
            departures=departures(parts, life),
            states=parts.memory is not None and memory.reproduces(parts.memory, life),
            gradients=followed,
            lines=lines_of(parts, life, trace),
            values=values,
            reached=used,
        )
    return found


def lines_of(parts: Parts, life: Life, trace: Trace) -> tuple[Array, Array, Array]:
    """used_mean, used_invstd, used_residual behind the activation; NaN where parts of a batch are normalised apart."""
    blank = np.full_like(life.stream.used_mean, np.nan)
    held = [trace.get(life.layer.name, name) for name in LINES]
    mean, invstd, residual = (blank if part is None else np.array(part, dtype=np.float64) for part in held)
    for forward in life.forwards:
        rule = parts.training if forward.training else parts.evaluating
        at = forward.event
        if rule is not None and (rule.group.kind != "batch" or rule.source == "mixture"):
            mean[at] = invstd[at] = residual[at] = np.nan
        elif parts.activation.name != "none" or parts.affine is not None:
            used = forward if parts.affine is None else changed(forward, parts.affine)
            line = solve(show(used, parts.activation, life.u), moments(Group(), forward.x), life.u)
            mean[at] = np.where(line.known, line.m, np.nan)
            invstd[at] = np.where(line.known, line.r, np.nan)
            residual[at] = np.where(line.known, 0.0, np.nan)
    return mean, invstd, residual


def seen_through(trace: Trace, anatomies: Mapping[str, Anatomy]) -> Trace:
    """The trace as its outputs read once an activation and what is normalised apart are known."""
    arrays = {
        f"{name}/{quantity}": rows
        for name, one in anatomies.items()
        if one.departures
        for quantity, rows in zip(LINES, one.lines, strict=True)
    }
    return replace(trace, arrays={**trace.arrays, **arrays}) if arrays else trace
