"""Whether a BatchNorm layer did the same work on both sides, however far its inputs already were apart.

In a deep network an honest difference grows from layer to layer, and one in its last output may be as large as a wrong
eps makes it. What a layer itself does is not blurred by that: its output reveals the mean and variance that it
normalised with, and these may be apart by no more than the inputs and the running statistics were, and by rounding.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from bncheck.diagnosis.rules.revealed import Table, read_layer
from bncheck.evidence import CellView, PairView
from bncheck.trace import Array


def odd_layer(pair: PairView, layers: tuple[str, ...]) -> str | None:
    """The first layer whose own work differs between the sides by more than rounding; None where none does."""
    with np.errstate(all="ignore"):
        return next(
            (layer for layer in layers if not pair.once(("alike", layer), partial(works_alike, pair, layer))), None
        )


def works_alike(pair: PairView, layer: str) -> bool:
    """True also where the outputs reveal nothing: then the layer is judged by what comes out of it alone."""
    one, two = (table_of(cell, layer) for cell in (pair.a, pair.b))
    if one is None or two is None or one.kept.shape != two.kept.shape:
        return True
    a, b = one.facts, two.facts
    kept = one.kept & two.kept

    def gap(name: str) -> Array:
        return np.asarray(np.abs(a[name] - b[name]))

    sources = ("batch", "before", "after")
    error = {name: a[f"{name}_error"] + b[f"{name}_error"] for name in ("mean", "var")}
    mean, var = (
        np.maximum.reduce([gap(f"{source}_{name}") for source in sources]) + error[name] for name in ("mean", "var")
    )
    # Not the variances: with the eps that each side holds taken off, a wrong eps would be none.
    level = np.abs((a["var"] + one.eps[:, None]) - (b["var"] + two.eps[:, None]))
    affine = np.maximum(gap("gamma") / np.maximum(np.abs(a["gamma"]), 1e-300), gap("beta"))
    odd = (gap("mean") > mean) | (level > var) | (affine > AFFINE)
    return not bool((odd & kept).any())


# gamma and beta are the same bytes on both sides: anything but the last bits of a float32 is another parameter.
AFFINE = 1e-6


def table_of(cell: CellView, layer: str) -> Table | None:
    return read_layer(cell, layer)
