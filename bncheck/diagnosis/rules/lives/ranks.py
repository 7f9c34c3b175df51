"""Several ranks of one program: whose statistics are they?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bncheck.diagnosis.rules.layer_names import of_all
from bncheck.diagnosis.rules.lives.reading import moves, places
from bncheck.diagnosis.rules.lives.words import Said
from bncheck.diagnosis.rules.wording import number
from bncheck.life import LayerLife, Life
from bncheck.trace import Array

APART = 0.1  # of a standard deviation, between two ranks before the same forward
FEW = 4  # values per channel of a rank
STEPS = 2


def ranks_of(lives: Sequence[Life]) -> list[Life]:
    """The ranks of one program, one life each, by rank; none where they are no ranks of one program."""
    found = {life.rank: life for life in lives if life.world > 1 and life.layers}
    ordered = [found[rank] for rank in sorted(found)]
    alike = len({tuple(layer.name for layer in life.layers) for life in ordered}) == 1
    return ordered if len(ordered) > 1 and alike and len(ordered) == len(lives_that_run(lives)) else []


def lives_that_run(lives: Sequence[Life]) -> list[Life]:
    return [life for life in lives if life.layers]


def parted(lives: Sequence[Life]) -> Said | None:
    """Ranks that go into the same training forward with other statistics: each keeps its own."""
    ranks = ranks_of(lives)
    found: dict[str, float] = {}
    for layer in ranks[0].layers if ranks else ():
        gap = apart([rank.layer(layer.name) for rank in ranks])
        if gap is not None and gap > 0:
            found[layer.name] = gap
    if not found:
        return None
    layers, gap = tuple(found), max(found.values())
    return Said(
        layers,
        f"Each of {len(ranks)} ranks keeps statistics of its own in {of_all(layers, ranks[0])}: they lie up to "
        f"{number(gap)} standard deviations apart before the same forward. What is saved or evaluated is one rank's.",
        "use SyncBatchNorm (torch.nn.SyncBatchNorm.convert_sync_batchnorm), or leave broadcast_buffers=True in "
        "DistributedDataParallel",
        kind="hazard" if gap > APART else "convention",
        evidence={"ranks": len(ranks), "apart, in deviations": gap},
    )


def apart(layers: Sequence[LayerLife]) -> float | None:
    """The largest difference of running means before the last training forward that all ranks kept, in deviations."""
    rows = [by_index(layer) for layer in layers]
    common = set.intersection(*(set(row) for row in rows))
    if len(common) < STEPS:
        return None
    last = max(common)
    places_of = [row[last] for row in rows]
    means, variances = zip(
        *(
            (layer.moments["mean_before"][place], layer.moments["var_before"][place])
            for layer, place in zip(layers, places_of, strict=True)
        ),
        strict=True,
    )
    spread = np.sqrt(np.maximum(np.mean(variances, axis=0), 0)) + 1e-12
    gap: Array = (np.max(means, axis=0) - np.min(means, axis=0)) / spread
    return float(gap.max()) if np.isfinite(gap).all() else None


def by_index(layer: LayerLife) -> dict[int, int]:
    """Index of a forward → its moment, of training forwards."""
    if layer.get("mean_before") is None or layer.get("var_before") is None:
        return {}
    index = layer.moments["index"]
    return {int(index[place]): int(place) for place in places(layer, training=1, in_backward=0)}


def few_per_rank(lives: Sequence[Life]) -> Said | None:
    """So few values per channel on each rank that SyncBatchNorm is what they need."""
    ranks = ranks_of(lives)
    found: dict[str, int] = {}
    for layer in ranks[0].layers if ranks else ():
        runs = [
            span for rank in ranks for span in rank.layer(layer.name).spans if span.training is True and moves(span)
        ]
        largest = max((span.n[1] for span in runs), default=-1)
        if 0 < largest <= FEW and not layer.kind.startswith("Sync"):
            found[layer.name] = largest
    if not found:
        return None
    layers, most = tuple(found), max(found.values())
    return Said(
        layers,
        f"{of_all(layers, ranks[0])} normalise with {most} values per channel on each of {len(ranks)} ranks: such "
        f"statistics are mostly chance, and each rank has its own.",
        "convert the model with torch.nn.SyncBatchNorm.convert_sync_batchnorm before DistributedDataParallel",
        evidence={"values per channel on a rank": most, "ranks": len(ranks)},
    )
