"""What a project says once, and where it says it: found by :mod:`bncheck.gate.project`, read by
:mod:`bncheck.gate.config`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncheck.gate.waiver import Waiver
    from bncheck.scenario import Tolerance


@dataclass(frozen=True)
class Configuration:
    """None and empty: the file does not say. Paths are absolute; ``path`` is the file itself."""

    path: Path | None = None
    targets: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    tolerance: Tolerance | None = None
    fail_on: str | None = None
    timeout: float | None = None
    baseline: Path | None = None
    waivers: tuple[Waiver, ...] = ()

    def tolerance_of_all(self) -> Tolerance:
        """For scenarios that state none; where the file does not either, each dtype has its own."""
        from bncheck.scenario import Tolerance  # which takes as long to import as finding the file

        return self.tolerance or Tolerance()
