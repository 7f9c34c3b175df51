"""A model whose outputs no one way to run it brings to those of a file: run again in two ways at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bncheck.diagnosis.held.outputs import aligned, hold_against
from bncheck.errors import BncheckError
from bncheck.subjects.played_file import Played

# Usual ones of frameworks and of models; beside them those that the file itself declares are tried.
USUAL = (1e-5, 1e-3, 1e-6, 1e-4, 1e-2)


def in_two_ways(one: Played, two: Played, play: Callable[[Sequence[float]], Played]) -> Played:
    """``one`` with another eps and each other way together, where none alone makes what ``two`` gave. ``play`` runs the
    model with each of the eps that it gets."""
    if not one.checkpoint.holding.layers:
        return one
    other = aligned(one.plays["eval"], two.plays.get("plain") or two.plays.get("eval") or ())
    if any(measured.fits for measured in hold_against(one.plays, other).values()):
        return one
    try:
        more = play(eps_tried(one, two))
    except BncheckError as error:  # it had run before; what was learned then stays
        return replace(one, remarks=(*one.remarks, f"Two causes at once were not tried: {error}"))
    return replace(one, plays={**more.plays, **one.plays})


def eps_tried(one: Played, two: Played) -> list[float]:
    """What the file declares, then the usual ones; not the one that all layers of the model have."""
    own, others = ({layer.eps for layer in each.checkpoint.holding.layers} - {None} for each in (one, two))
    tried = dict.fromkeys(float(f"{eps:g}") for eps in (*sorted(eps for eps in others if eps), *USUAL))
    return [eps for eps in tried if own != {eps}]
