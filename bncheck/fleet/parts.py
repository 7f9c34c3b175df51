"""A plan cut into parts that can be played apart: one target each, and of its cases a share. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bncheck.playing.shard import Shard, take
from bncheck.scenario_files.plan import MOST_PARTS, Plan


@dataclass(frozen=True, eq=False)  # each is itself: a plan has no hash
class Part:
    """Share ``index`` (from 1) of ``of`` of what one target plays."""

    target: str
    index: int
    of: int
    plan: Plan

    @property
    def name(self) -> str:
        return self.target if self.of == 1 else f"{self.target} (part {self.index} of {self.of})"


def divide(plan: Plan, slots: int) -> tuple[Part, ...]:
    """So many parts that each of ``slots`` places has one, and no part without a case of its own.

    The parts of the target that was named first come first: they are handed out in this order."""
    own = sum(len(scenario.cases) for scenario in plan.scenarios if scenario.name not in plan.background)
    shares = max(1, min(-(-slots // max(len(plan.targets), 1)), own, MOST_PARTS))
    cut = [take(plan, Shard(index, shares)) for index in range(1, shares + 1)]
    return tuple(
        Part(target=target, index=number, of=shares, plan=replace(part, targets=(target,), required=(), alone=True))
        for target in plan.targets
        for number, part in enumerate(cut, 1)
    )


def plural_parts(parts: Sequence[Part]) -> str:
    """Names of parts in a sentence; all parts of one target are its name alone."""
    said = []
    for target in dict.fromkeys(part.target for part in parts):
        own = [part for part in parts if part.target == target]
        whole = len(own) == own[0].of
        said.append(target if whole else f"{target} (part {', '.join(str(p.index) for p in own)} of {own[0].of})")
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
