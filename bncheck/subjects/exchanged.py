"""Whether what normalising layers hold, or the type of all weights, is all of a difference of outputs: the first side
gets the numbers or the type of the second, and is played again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bncheck.checkpoints.normalisers import plain_name
from bncheck.diagnosis.held.likeness import QUANTITIES, array, compared
from bncheck.diagnosis.held.matching import match
from bncheck.diagnosis.held.measured import Measured
from bncheck.diagnosis.held.outputs import aligned, gap, hold_against, percent
from bncheck.diagnosis.held.reading import Sides
from bncheck.errors import BncheckError
from bncheck.finding import Finding
from bncheck.report.plain_text import plural
from bncheck.subjects.played_file import Played
from bncheck.subjects.two_files import same_tensor
from bncheck.trace import Array

SHORT = ("float16", "bfloat16")
Play = Callable[[Mapping[str, Array]], Mapping[str, Sequence[Array]]]


def exchanged(one: Played, two: Played, play: Play) -> Played:
    """``one`` with its outputs as "exchanged", where ``two`` gives others, and no way to run ``one`` gives those.
    ``play`` gives the outputs of ``one`` with other weights, by their names."""
    if any(each.fits for each in hold_against(one.plays, outputs_of(one, two)).values()):
        return one
    weights = numbers_of(one, two)
    if not weights:
        return one
    try:
        return replace(one, exchanged=play(weights).get("restored", ()))
    except BncheckError:  # what was found stays as it is: not explained by this
        return one


def in_its_type(one: Played, two: Played, play: Callable[[str], Played]) -> Played:
    """``one`` with its outputs as "cast", where ``two`` gives others and keeps its weights in a type of 16 bits."""
    kinds = [kind for kind in two.narrow if kind in SHORT and kind not in one.narrow]
    if len(kinds) != 1 or any(each.fits for each in hold_against(one.plays, outputs_of(one, two)).values()):
        return one
    try:
        return replace(one, cast=play(kinds[0]).plays.get("cast", ()))
    except BncheckError:
        return one


def outputs_of(one: Played, two: Played) -> Sequence[Array]:
    usual = one.plays.get("eval") or one.plays.get("plain") or ()
    return aligned(usual, two.plays.get("plain") or two.plays.get("eval") or ())


def numbers_of(one: Played, two: Played) -> dict[str, Array]:
    """What layers of ``two`` hold otherwise, under the names of ``one``, and other tensors that are equal but for
    rounding; nothing where a layer has no partner or another number of channels."""
    matching = match(one.checkpoint.holding, two.checkpoint.holding)
    if matching.only_a or matching.only_b:
        return {}
    found: dict[str, Array] = {}
    for a, b in matching.pairs:
        for what, likeness in compared(a, b).quantities.items():
            mine, theirs = (array(a, what), array(b, what)) if what in QUANTITIES else (None, None)
            if likeness.word == "equal" or what not in QUANTITIES:
                continue
            if mine is None or theirs is None or mine.shape != theirs.shape or what not in a.keys:
                return {}
            found[a.keys[what]] = theirs.reshape(a.shapes.get(what, mine.shape)).astype(mine.dtype)
    return found | rounded_others(one, two) if found else {}


def rounded_others(one: Played, two: Played) -> dict[str, Array]:
    """Tensors of one name that only rounding tells apart."""
    tensors = two.checkpoint.tensors
    names = {plain_name(key): key for key in two.checkpoint.holding.others if key in tensors}
    found = {}
    for key in one.checkpoint.holding.others:
        other = tensors.get(names.get(plain_name(key), ""))
        mine = one.checkpoint.tensors.get(key)
        if mine is not None and other is not None and same_tensor(mine, other):
            found[key] = other.read().astype(mine.read().dtype)
    return found


def of_numbers(finding: Finding) -> bool:
    """Whether it speaks of numbers that went from one side to the other, and not of momentum, a counter or a mode."""
    return any(quantity in QUANTITIES for _, quantity in finding.places)


def follows(
    sides: Sides, one: Played, two: Played, outputs: Sequence[Finding], held: Sequence[Finding], usual: Measured
) -> tuple[list[Finding], list[Finding]]:
    """Outputs that nothing else explains follow from what layers hold, where with the same numbers they are equal."""
    open_ones = [finding for finding in outputs if finding.kind == "unexplained"]
    causes = [finding for finding in held if finding.kind != "rounding" and of_numbers(finding)]
    causes = causes or [finding for finding in held if finding.cause == "reduced-precision"]
    if not open_ones or not causes or not one.exchanged:
        return list(outputs), list(held)
    apart = gap(one.exchanged, outputs_of(one, two))
    if apart > usual.bound:
        return list(outputs), list(held)
    all_of_it = "That is" if len(causes) == 1 else f"Together with {plural(len(causes) - 1, 'other finding')} that is"
    size = f", {percent(usual.gap)} of the largest" if usual.gap < float("inf") else ""
    first = replace(
        causes[0],
        kind="convention" if causes[0].kind == "rounding" else causes[0].kind,
        title=f"{causes[0].title} {all_of_it} all of the difference of their outputs{size}: with these numbers in its "
        f"layers {sides.a} gives what {sides.b} gives.",
        evidence={**causes[0].evidence, "explained": 1.0},
        accounts=(*causes[0].accounts, ("", "output")),
    )
    return [each for each in outputs if each not in open_ones], [first if each is causes[0] else each for each in held]
