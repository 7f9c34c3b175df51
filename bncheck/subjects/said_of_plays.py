"""Remarks on how a model was played: what went in, and what its weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SAME = "Both got the same values: "


def given_as(remarks: Sequence[str], first: Sequence[str], name: str) -> list[str]:
    """Remarks of the second side, which may take what the first got in a type of its own."""
    told = [remark for remark in first if remark.startswith(SAME)]
    return [
        f"{name} got them as {remark.removeprefix(SAME)}" if told and remark.startswith(SAME) else remark
        for remark in remarks
        if remark not in told
    ]


def remarks_of(said: Mapping[str, Any], name: str) -> tuple[str, ...]:
    shapes = ", ".join(f"{each['dtype']} {'×'.join(map(str, each['shape']))}" for each in said["input"]["shapes"])
    found = [f"{SAME}{shapes}.", *(str(remark) for remark in said.get("remarks", ()))]
    loaded = said.get("weights")
    if not loaded:
        found.append(f"{name} was taken as it is built. Weights from a file: --weights FILE.")
    if loaded and any(loaded["counts"]):
        missing, unexpected, misshaped = loaded["counts"]
        found.append(
            f"{loaded['path']}: {missing} keys missing, {unexpected} unexpected, {misshaped} of another shape."
        )
    return tuple(found)
