"""``--shard i/N``: a run split over machines, the same way on each of them. ``bncheck compare`` joins the parts.

The longest case goes first, always to the part that has least to do (LPT: at most 4/3 of the best possible time).
Ties go by name, so the split depends on nothing but the scenarios, N and the durations given.

Probes are in every part: they measure the conventions that each part's own report explains drift with. They are
short, and the comparison takes those of the first part.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bncheck.errors import UsageError
from bncheck.scenario import Scenario
from bncheck.scenario_files.plan import MOST_PARTS, Plan


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 1) of ``of``; ``seconds`` are recorded durations by case id, empty: all equal."""

    index: int
    of: int
    seconds: Mapping[str, float] = field(default_factory=dict)


def parse_shard(text: str, seconds: Mapping[str, float] = {}) -> Shard:
    """``2/3``; UsageError for anything else."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    index, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= of <= MOST_PARTS:
        raise UsageError(
            f"--shard {text} is not a part of a whole.", "Write i/N with 1 <= i <= N, for example --shard 1/3"
        )
    return Shard(index, of, seconds)


def split(seconds: Mapping[str, float], of: int) -> list[list[str]]:
    """The ids in ``of`` parts of about equal sums of seconds."""
    parts: list[list[str]] = [[] for _ in range(of)]
    sums = [0.0] * of
    for name in sorted(seconds, key=lambda name: (-seconds[name], name)):
        # Of equal sums the part with fewer cases: with no durations at all the numbers of cases must be equal.
        least = min(range(of), key=lambda part: (sums[part], len(parts[part]), part))
        parts[least].append(name)
        sums[least] += seconds[name]
    return parts


def take(plan: Plan, shard: Shard) -> Plan:
    """The plan of one part; scenarios keep their order, also those that have no case in it."""
    ids = [case.id for scenario in plan.scenarios if not scenario.probe for case in scenario.cases]
    known = [shard.seconds[name] for name in ids if name in shard.seconds]
    usual = sum(known) / len(known) if known else 1.0
    mine = set(split({name: shard.seconds.get(name, usual) for name in ids}, shard.of)[shard.index - 1])
    part = {"index": shard.index, "of": shard.of, "whole": whole(plan, shard.of)}
    return replace(plan, scenarios=tuple(keep(scenario, mine) for scenario in plan.scenarios), part=part)


def keep(scenario: Scenario, mine: set[str]) -> Scenario:
    if scenario.probe:
        return scenario
    return replace(scenario, cases=tuple(case for case in scenario.cases if case.id in mine))


def whole(plan: Plan, of: int) -> str:
    """What all parts of one run have in common: scenarios' text, targets, overrides, and the number of parts."""
    texts = [[scenario.name, Path(scenario.path).read_text(encoding="utf-8")] for scenario in plan.scenarios]
    said = json.dumps([texts, list(plan.targets), dict(plan.overrides), of], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def durations(cells: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Seconds of each case over all targets, from (case id, seconds) of an earlier run's cells."""
    found: dict[str, float] = {}
    for name, seconds in cells:
        if seconds > 0:
            found[name] = found.get(name, 0.0) + seconds
    return found
