"""What can be said for the BatchNorm layers of a life: that each of them did, forward by forward, what it should; and
of layers of the user's own, that they were not held against it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bncheck.diagnosis.lived.departures import OTHERWISE, departures
from bncheck.diagnosis.lived.fitted import fit
from bncheck.diagnosis.lived.judged import Lived, lived
from bncheck.life import Life

SHOWN = 3  # classes that a sentence names
NAMES = {"torch": "PyTorch", "keras": "Keras", "paddle": "Paddle", "flax": "Flax", "mxnet": "MXNet"}


def innocence(life: Life, others: bool = True) -> str:
    """One sentence, "" where a layer departs from the rules, or too little was recorded to say it of all of them.
    ``others``: layers of the user's are named that nothing was held against.

    It is about the arithmetic of the layers alone: statistics after each kept forward follow from those before and from
    the input, and outputs from the statistics that the mode asks for. What the program does with them is another
    matter, and the findings'."""
    built_in = [layer for layer in lived(life) if not layer.life.own]
    judged = [layer for layer in built_in if layer.conduct.judged]
    if not judged or len(judged) < sum(not layer.own for layer in life.layers):
        return ""
    if not all(layer.conduct.innocent for layer in judged):
        return ""
    forwards = sum(int((layer.conduct.stepped | layer.conduct.revealed).sum()) for layer in judged)
    whole = sum(len(layer.record.training) for layer in judged)
    followed = f"each of {forwards:,} forwards that were recorded whole"
    if forwards == 1:
        followed = "the one forward that was recorded whole"
    if forwards < whole:  # of those with NaN, nothing can be said
        one = "the one forward" if forwards == 1 else f"each of the {forwards:,} forwards"
        followed = f"{one} that can be judged, of {whole:,} recorded whole"
    framework = NAMES.get(life.framework, life.framework)
    kinds = sorted({layer.kind for layer in life.layers if layer.own})
    noun = "built-in layer" if kinds else "layer"
    who = {1: f"its one {noun}", 2: f"both {noun}s"}.get(len(judged), f"all {len(judged)} {noun}s")
    said = f"BatchNorm itself is innocent: {who} did what {framework} documents in {followed}."
    if kinds and others and not own_ways(life):
        said += (
            f" {shortened(kinds)} {'is' if len(kinds) == 1 else 'are'} not among them: bncheck check "
            f"FILE.py:{kinds[0]} compares {'it' if len(kinds) == 1 else 'a layer'} with {framework}'s."
        )
    return said


def own_ways(life: Life) -> str:
    """One sentence on layers of the user's own that compute something else than BatchNorm and follow no rule that is
    known; "" where there are none. A layer may be meant so, and silence would read as agreement."""
    named = {found.layer.name for found in departures(life)}
    others = [
        layer
        for layer in lived(life)
        if layer.life.own and layer.name not in named and not OTHERWISE.search(layer.life.kind) and odd(layer)
    ]
    if not others:
        return ""
    kinds = list(dict.fromkeys(layer.life.kind for layer in others))
    framework = NAMES.get(life.framework, life.framework)
    return (
        f"{len(others)} {'layer' if len(others) == 1 else 'layers'} of your own ({shortened(kinds)}) did something "
        f"else than {framework}'s BatchNorm does, by no rule that shows here: modes, counts and NaN were judged, the "
        f"arithmetic was not. bncheck check FILE.py:{kinds[0]} holds it against that."
    )


def shortened(kinds: Sequence[str]) -> str:
    return ", ".join(kinds[:SHOWN]) + (" and others" if len(kinds) > SHOWN else "")


def no_eps(layer: Lived) -> bool:
    """Whether no eps at all makes the outputs those of BatchNorm, where gamma is known and outputs reveal something."""
    record = layer.record
    known = layer.life.get("gamma") is not None and bool(np.isfinite(record.used_invstd).any())
    return known and not bool(np.isfinite(record.eps).any())


def odd(layer: Lived) -> bool:
    """Whether a layer departs, or training moves its statistics by what is no average of its batches."""
    if no_eps(layer):
        return True
    facets = fit(layer.record)
    if all(facets[name].identifiable for name in ("statistic", "averaging") if name in facets):
        return not layer.conduct.innocent
    moved = layer.record.training & (layer.record.m0 != layer.record.m1).any(axis=1)
    return not layer.conduct.innocent or bool((moved & ~layer.conduct.stepped & layer.record.sound).any())
