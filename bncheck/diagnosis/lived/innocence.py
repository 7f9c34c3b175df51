"""What can be said for the BatchNorm layers of a life: that each of them did, forward by forward, what it should."""

from __future__ import annotations

from bncheck.diagnosis.lived.judged import lived
from bncheck.life import Life

NAMES = {"torch": "PyTorch", "keras": "Keras", "paddle": "Paddle", "flax": "Flax", "mxnet": "MXNet"}


def innocence(life: Life) -> str:
    """One sentence, "" where a layer departs from the rules, or too little was recorded to say it of all of them.

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
    who = {1: "its one layer", 2: "both layers"}.get(len(judged), f"all {len(judged)} layers")
    documents = f"{NAMES.get(life.framework, life.framework)} documents"
    return (
        f"BatchNorm itself is innocent: {who} did what {documents} in each of {forwards:,} forwards that were recorded "
        f"whole."
    )
