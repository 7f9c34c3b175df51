"""Rules of an average that hold in the shorter programs of a check and not in the longest: the weight of a batch may
change on the way, as in a warm-up. Neither sentence then speaks of all that was tried. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bncheck.finding import Finding
from bncheck.trace import STATISTICS

OF_AVERAGES = ("averaging", "batch-weight")
MOVING = ("train_forward", "no_grad_forward")


def training_forwards(cases: Mapping[str, Mapping[str, Any]], repeat: int) -> dict[str, int]:
    """Case → how many forwards of training its program has, ``repeat`` times unless it says otherwise."""
    return {
        name.replace(" ", "-"): sum(op in MOVING for op in case["program.events"]) * case.get("program.repeat", repeat)
        + sum(op in MOVING for op in case.get("program.then", ()))
        for name, case in cases.items()
    }


def as_long_as_it_holds(findings: Sequence[Finding], forwards: Mapping[str, int]) -> tuple[Finding, ...]:
    """The findings of one layer, ``forwards`` by case; those that contradict each other say over how many they hold."""
    of_rules = [item for item in findings if item.cause in OF_AVERAGES and item.case in forwards]
    longest = max((forwards[item.case] for item in of_rules), default=0)
    open_ones = [item for item in findings if open_beyond(item, longest, forwards)] if of_rules else []
    if not open_ones:
        return tuple(findings)
    more = min(forwards[item.case] for item in open_ones)
    return tuple(
        limited(item, forwards[item.case], more)
        if any(item is each for each in of_rules)
        else opened(item, longest, forwards[item.case])
        if any(item is each for each in open_ones)
        else item
        for item in findings
    )


def open_beyond(item: Finding, longest: int, forwards: Mapping[str, int]) -> bool:
    """Whether no rule explains the statistics of a case that is longer than each in which a rule does."""
    return item.cause == "unexplained" and item.quantity in STATISTICS and forwards.get(item.case, 0) > longest


def limited(item: Finding, count: int, more: int) -> Finding:
    title = f"Over {count} training forwards {item.title.rstrip('.')}; over {more} that does not fit."
    proof = item.proof
    if proof.startswith("This "):
        proof = f"Over the {count}, this {proof.removeprefix('This ')}"
    return replace(item, title=title, proof=proof)


def opened(item: Finding, longest: int, count: int) -> Finding:
    said = f"over {count} training forwards, and no rule explains it: what fits over {longest} does not fit over these"
    return replace(item, title=item.title.replace("and no rule explains it", said, 1).replace(", over", " over", 1))
