"""How sentences name targets and numbers. A group of targets that agree is one grammatical side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bncheck.evidence import CellView
from bncheck.scenario import TARGET_NAME

SHOWN = 3  # layers, or channels, that a sentence names
GRADIENT_WORDS = {"grad_gamma": "dgamma", "grad_beta": "dbeta", "grad_input": "dx"}
NAMED = 3  # targets


def name(cell: CellView) -> str:
    """``mxnet==1.9.1`` → ``mxnet 1.9.1``; the version that ran is put in where the target named none, and the device
    stands there where it is not the CPU.

    A layer of the user's own comes with its class: what it does is not the framework's doing."""
    return f"{cell.own_layer} in {label(cell)}" if cell.own_layer else label(cell)


def label(cell: CellView) -> str:
    """The target alone, with the version that ran."""
    match = TARGET_NAME.fullmatch(cell.target)
    if match is None:
        return cell.target
    variant = f"[{match['variant']}]" if match["variant"] else ""
    version = (match["version"] or str(cell.environment.get("version") or "")).partition("+")[0]
    device = match["device"] or str(cell.environment.get("device") or "cpu")
    where = "" if device == "cpu" else f"@{device}"
    return f"{match['backend']}{variant}{' ' + version if version else ''}{where}"


def names(side: Sequence[CellView]) -> str:
    """All members of one side: "a", "a and b", "a, b and c", "a and 9 others"; a finding's ``targets`` has all."""
    found = list(dict.fromkeys(name(cell) for cell in side))
    if len(found) > NAMED:
        found = [found[0], f"{len(found) - 1} others"]
    return " and ".join(filter(None, (", ".join(found[:-1]), *found[-1:])))


def verb(side: Sequence[CellView], singular: str, plural: str) -> str:
    return singular if len(side) == 1 else plural


def number(value: Any) -> str:
    """A value in a sentence: four significant digits are enough to recognise it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.4g}"


def channels(places: Sequence[int], of: int) -> str:
    if len(places) == of > 1:
        return f"all {of} channels"
    if len(places) == 1:
        return f"channel {places[0]}"
    if len(places) <= SHOWN:
        return f"channels {', '.join(map(str, places[:-1]))} and {places[-1]}"
    return f"{len(places)} of {of} channels"


def percent(share: float) -> str:
    """One decimal, never rounded up to 100.0 by display alone when something is left."""
    shown = 100 * min(share, 1.0)
    return f"{min(shown, 99.9):.1f} %" if share < 0.9995 else f"{shown:.1f} %"


def targets(*sides: Sequence[CellView]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cell.target for side in sides for cell in side))
