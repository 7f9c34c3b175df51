"""What an input cannot tell, read off the trace itself, and which scenario settles it."""

from __future__ import annotations

import numpy as np

from bncheck.convention import SETTLED_BY_PROBE
from bncheck.evidence import Attribution, PairView

# Rules that an input can hide behind one another. What happens at n = 1 or n = 0 shows where it happens or nowhere, and
# the size of eps is bounded by any input: neither is a reason to doubt a cause.
CONFUSABLE = (
    "update_on",
    "updates_per_event",
    "batch_weight",
    "averaging",
    "variance_divisor",
    "statistic",
    "train_normaliser",
    "eval_normaliser",
)


def not_identifiable(pair: PairView, item: Attribution | None = None, layer: str = "") -> dict[str, str]:
    """Facet → why this case cannot tell it. The attribution's own words win over those read off the trace."""
    layer = item.layer if item is not None else layer
    found = {**blind_facets(pair, layer), **(item.not_identifiable if item is not None else {})}
    return {facet: why for facet, why in found.items() if facet in CONFUSABLE}


def blind_facets(pair: PairView, layer: str) -> dict[str, str]:
    """Facets that the layer's input hides in principle: constant channels, one repeated batch."""
    trace = pair.a.trace or pair.b.trace
    if trace is None:
        return {}
    means, variances, counts = (trace.get(layer, key) for key in ("input_mean", "input_var", "n"))
    if means is None or variances is None or counts is None or not (counts > 0).any():
        return {}
    seen = counts > 0
    found = {}
    if not np.nan_to_num(variances[seen]).any():
        why = f"every channel of the input is constant, so every variance is 0; {SETTLED_BY_PROBE}"
        found = dict.fromkeys(("variance_divisor", "statistic"), why)
    elif counts[seen].min() > 1e4:
        found["variance_divisor"] = (
            f"n is {int(counts[seen].min())}, where n and n - 1 agree to rounding; {SETTLED_BY_PROBE}"
        )
    return found
