"""Errors of PyTorch's autograd engine that say what a layer did, in the engine's own words."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.evidence import CellView

FREED = "backward through the graph a second time"
IN_PLACE = "modified by an inplace operation"


def errors(cell: CellView, words: str) -> Iterator[tuple[int, str]]:
    """(event, message) of the events that raised an error with these words."""
    for event, record in enumerate(cell.trace.events if cell.trace is not None else ()):
        if record.status == "raised" and words in record.error:
            yield event, record.error


def split_line(message: str) -> dict[str, str]:
    """Evidence: the error, and the line of the user's file that the worker put behind it in brackets."""
    said, bracket, line = message.rpartition(" [")
    if not bracket or not line.endswith("]") or ", line " not in line:
        return {"error": message}
    return {"line": line[:-1], "error": said}


def says_why(text: str) -> bool:
    """True if the message names its cause: BN404 and BN405 then say more than that something was refused."""
    return FREED in text or IN_PLACE in text
