"""How a process ended, in words, and as the outcome of the cell that it was at."""

from __future__ import annotations

import signal

from bncheck.run_folder.cell import CellRecord


def died(outcome: str, name: str, why: str) -> CellRecord:
    return CellRecord(outcome, error_type=name, error=why)


def death_name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def death(code: int) -> str:
    return f"was killed by {death_name(code)}" if code < 0 else f"ended with exit code {code}"
