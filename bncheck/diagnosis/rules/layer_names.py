"""How sentences name a user's layers: one by its name, many by the first four."""

from __future__ import annotations

from collections.abc import Sequence

from bncheck.life import Holding, Life
from bncheck.trace import Trace

SHOWN = 4  # layers that a sentence names


def listed(layers: Sequence[str]) -> str:
    """ "a", "a and b", "a, b, c and d", "a, b, c, d and 3 more"."""
    if len(layers) > SHOWN:
        return f"{', '.join(layers[:SHOWN])} and {len(layers) - SHOWN} more"
    return " and ".join(filter(None, (", ".join(layers[:-1]), *layers[-1:])))


def of_all(layers: Sequence[str], thing: Holding | Life | Trace) -> str:
    """ "bn1" of a single layer; "3 of 20 layers (a, b and c)"."""
    return named(layers[0]) if len(layers) == 1 else f"{len(layers)} of {len(thing.layers)} layers ({listed(layers)})"


def named(layer: str) -> str:
    """A layer's name; one that is a number, as in an nn.Sequential, says that it is one."""
    return f"layer {layer}" if layer[:1].isdigit() else layer


def together(layers: Sequence[str]) -> str:
    """Several layers at the head of a sentence: "a and b"; "layers 1 and 4" where names are numbers."""
    return f"layers {listed(layers)}" if layers[0][:1].isdigit() else listed(layers)


def verb(layers: Sequence[str], singular: str, plural: str) -> str:
    return singular if len(layers) == 1 else plural


def is_of_samples(kind: str) -> bool:
    """Whether layers of that class normalise each sample by itself, whatever stands beside it."""
    return "instancenorm" in kind.replace("_", "").lower()
