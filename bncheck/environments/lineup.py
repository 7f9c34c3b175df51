"""Who plays: the targets of a run, and which of them it cannot do without.

Whoever names a target (-t, ``[tool.bncheck]``, a scenario's ``targets``) wants it to run: a mistyped version or a lost
GPU must not be green for ever. The usual targets, which nobody named, and those of --optional may be missing.
One target alone is compared with the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bncheck.environments.backend_file import BackendFile
from bncheck.environments.targets import Target, parse_target, parse_targets
from bncheck.errors import TargetsUnavailable, UsageError
from bncheck.scenario import Scenario

REFERENCE = "reference"


@dataclass(frozen=True)
class Lineup:
    """``required`` are names of targets."""

    targets: tuple[Target, ...]
    required: tuple[str, ...] = ()


def line_up(
    named: Sequence[str],
    optional: Sequence[str],
    scenarios: Sequence[Scenario],
    usual: Sequence[str],
    backends: Mapping[str, BackendFile],
    alone: bool = False,
) -> Lineup:
    """The targets of ``named``, else those of each scenario, else the ``usual`` ones; then the optional ones, and the
    reference where there would be one target only that a case could be compared on."""
    asked = tuple(named) or tuple(name for scenario in scenarios for name in scenario.targets)
    wanted = tuple(named) or tuple(name for scenario in scenarios for name in scenario.targets or usual) or tuple(usual)
    spare = {target.name for target in parse_targets(optional, backends)}
    targets = parse_targets((*wanted, *optional), backends)
    firm = [target for target in targets if target.name not in spare]
    if not alone and len(firm) < 2 and REFERENCE in backends and lacks_reference(targets, scenarios):
        targets = (parse_target(REFERENCE, backends), *targets)
    required = tuple(target.name for target in parse_targets(asked, backends) if target.name not in spare)
    return Lineup(targets, required)


def lacks_reference(targets: Sequence[Target], scenarios: Sequence[Scenario]) -> bool:
    """Whether the reference is not there and could play something: whole models of a framework it cannot."""
    playable = any(case.network.model is None for scenario in scenarios for case in scenario.cases)
    return playable and all(target.backend != REFERENCE for target in targets)


def require(
    words: Sequence[str], targets: Sequence[Target], optional: Sequence[str], backends: Mapping[str, BackendFile]
) -> tuple[str, ...]:
    """Names of the targets that --require means: that target, or all of that backend."""
    spare = {target.name for target in parse_targets(optional, backends)}
    found: list[str] = []
    for word in words:
        name = parse_target(word, backends).name
        meant = [target.name for target in targets if name == target.name or word == target.backend]
        if not meant:
            raise TargetsUnavailable(f"{name} is required, and not among the targets of this run.", f"add: -t {name}")
        both = next((each for each in meant if each in spare), "")
        if both:
            raise UsageError(f"{both} is named by --require and by --optional.", "Leave out one of the two.")
        found += meant
    return tuple(found)
