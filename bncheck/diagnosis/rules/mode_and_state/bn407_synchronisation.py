"""Replicas keep statistics of their own part of each batch; none has those of the whole batch.

Signature: one training step is divided among replicas, and the running mean that replica r holds after it is an average
of its own part's mean, from its own statistics or from replica 0's, which were handed to it before. An average of the
whole batch's mean would be the same in all replicas. Stale statistics are old ones; these are new, but of other data.
In a program that was watched on several ranks: they go into the same forward with other statistics, or each has so few
values per channel that its statistics are chance.

What to do: synchronise (SyncBatchNorm), or estimate the statistics anew on whole batches before the model is saved or
evaluated. Broadcasting buffers does not help: it makes all replicas hold what replica 0 saw.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bncheck.diagnosis.rules.lives import ranks
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.mode_and_state.averages import averaged, roundoff, share, weight_of
from bncheck.diagnosis.rules.wording import names, number, percent, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.life import Life
from bncheck.scenario import op_of
from bncheck.trace import STATISTICS, Array

CODE = "BN407"
CAUSE = "synchronisation"
EXPLAINS = ("statistics", "counter", "outputs")
ADVICE = (
    "{}, or estimate the statistics anew on whole batches before you save or evaluate; broadcasting buffers only "
    "spreads what replica 0 saw"
)
WHOLE = {"flax": "give nnx.BatchNorm the axis_name of the replicas"}  # the framework's own way to average whole batches
HOW = {"own": "", "first": ", from replica 0's statistics on"}


@dataclass(frozen=True)
class Replicas:
    """One layer in all replicas, its training steps only. (R, T, C): before, after, own; counts is (R, T)."""

    start: Array  # (C,) of replica 0
    before: Array
    after: Array
    own: Array
    counts: Array
    slack: float

    @property
    def whole(self) -> Array:
        """(T, C) mean of the whole batch."""
        total = self.counts.sum(axis=0)[:, None]
        return np.asarray((self.own * self.counts[:, :, None]).sum(axis=0) / total)


def check_cell(cell: CellView) -> Iterator[Finding]:
    for layer in (item.name for item in cell.case.network.layers if item.type == "batch_norm"):
        found = read(cell, layer) if cell.case.network.replicas else None
        weight = weight_of(cell, layer)
        rule = None if found is None or weight is None else rule_of(found, weight)
        if found is None or weight is None or rule is None:
            continue
        measured = np.concatenate([found.start[None], found.after[0]])
        wanted = averaged(found.start, list(found.whole), weight)
        replayed = averaged(found.start, list(found.own[0]), weight)  # either rule's replica 0
        explained, drift, spread = share(measured, replayed, wanted)
        last = [float(np.mean(rows[-1])) for rows in found.after]
        ends = " and ".join(f"{number(value)} in replica {rank}" for rank, value in enumerate(last))
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=(
                f"{names(cell.members)}: each of {len(last)} replicas averages its own part of the batch "
                f"alone{HOW[rule]}. "
                f"running_mean of {layer} ends at {ends}; whole batches give {number(float(wanted[-1].mean()))}."
            ),
            proof=f"Averaging whole batches accounts for {percent(explained)} of the difference in running_mean.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=layer,
            event=None,
            quantity="running_mean",
            explained=min(max(explained, 0.0), 1.0),
            evidence={
                "points": len(measured),
                "mean_abs": drift,
                "std_abs": spread,
                **{f"running_mean of replica {rank}": value for rank, value in enumerate(last)},
                "running_mean of whole batches": float(wanted[-1].mean()),
                **variances(cell, layer, found),
            },
            advice=ADVICE.format(WHOLE.get(cell.backend, "use SyncBatchNorm")),
            accounts=tuple((replica_name(layer, rank), name) for rank in range(len(last)) for name in STATISTICS),
        )


def replica_name(layer: str, rank: int) -> str:
    """A layer as traces call it in a replica; replica 0 has the plain name."""
    return layer if rank == 0 else f"{layer}@{rank}"


def rule_of(found: Replicas, weight: float) -> str | None:
    """Which batches were averaged: None for whole ones (or nothing that can be told), "own" or "first"."""

    def off(start: Array, batch: Array) -> float:
        return float(np.abs(start + weight * (batch - start) - found.after).max())

    if off(found.before, found.whole[None]) <= found.slack:
        return None
    if off(found.before, found.own) <= found.slack:
        return "own"
    return "first" if off(found.before[:1], found.own) <= found.slack else None


def read(cell: CellView, layer: str) -> Replicas | None:
    """The layer's training steps in all replicas; None where one of them recorded none."""
    trace = cell.trace
    if trace is None:
        return None
    others = [name for name in trace.layers if re.fullmatch(re.escape(layer) + r"@\d+", name)]
    rows: Sequence[Array | None] = [trace.get(name, "running_mean") for name in (layer, *others)]
    means = [trace.get(name, "input_mean") for name in (layer, *others)]
    counts = [trace.get(name, "n") for name in (layer, *others)]
    steps = [t for t, event in enumerate(trace.events) if op_of(event.op).mode == "train" and event.status == "ok"]
    if not others or not steps or any(item is None for item in (*rows, *means, *counts)):
        return None
    held = np.stack([np.asarray(item) for item in rows])
    own = np.stack([np.asarray(item)[steps] for item in means])
    size = np.stack([np.asarray(item)[steps] for item in counts])
    if (size < 1).any() or not np.isfinite(own).all() or not np.isfinite(held).all():
        return None
    scale = float(np.abs(own).max())
    wide = held.astype(np.float64)
    before, after = wide[:, steps], wide[:, [t + 1 for t in steps]]
    return Replicas(
        start=wide[0, steps[0]], before=before, after=after, own=own, counts=size, slack=roundoff(held, scale)
    )


def variances(cell: CellView, layer: str, found: Replicas) -> dict[str, float]:
    """The running variance that each replica ends with, and the mean variance of whole batches."""
    assert cell.trace is not None
    said: dict[str, float] = {}
    spread = []
    for rank in range(len(found.own)):
        name = replica_name(layer, rank)
        held, var = cell.trace.get(name, "running_var"), cell.trace.get(name, "input_var")
        if held is None or var is None:
            return {}
        said[f"running_var of replica {rank}"] = float(np.mean(held[-1]))
        steps = np.isfinite(var).all(axis=1)
        if steps.sum() != found.own.shape[1]:
            return said
        spread.append(var[steps])
    weights = found.counts / found.counts.sum(axis=0)
    inner = (np.stack(spread) * weights[:, :, None]).sum(axis=0)
    between = ((found.own - found.whole[None]) ** 2 * weights[:, :, None]).sum(axis=0)
    return {**said, "variance of whole batches": float((inner + between).mean())}


def check_lives(lives: Sequence[Life]) -> list[Finding]:
    """The ranks of one program: statistics that part, and so few values on each that they are chance."""
    return of_life(lives[0], CODE, CAUSE, [ranks.parted(lives), ranks.few_per_rank(lives)]) if lives else []
