"""What a project says once, as :mod:`bncheck.gate.config` reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bncheck.gate.waiver import Waiver
from bncheck.scenario import Tolerance


@dataclass(frozen=True)
class Configuration:
    """None and empty: the file does not say. Paths are absolute; ``path`` is the file itself."""

    path: Path | None = None
    targets: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    tolerance: Tolerance = field(default_factory=Tolerance)
    fail_on: str | None = None
    timeout: float | None = None
    baseline: Path | None = None
    waivers: tuple[Waiver, ...] = ()
