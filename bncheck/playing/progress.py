"""What happens while cells are played, and who is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """Something happened: a cell started or finished, or a target turned out unavailable."""

    target: str
    kind: str  # importing (text: the command), started, finished, unavailable (text: the reason), ended (all cells)
    cell: str = ""
    outcome: str = ""
    text: str = ""


class Listener(Protocol):
    """Who is told how it goes (the command line's progress)."""

    def expect(self, total: int) -> None: ...
    def say(self, text: str) -> None: ...
    def cell(self, progress: Progress) -> None: ...
