"""Foreign text in Markdown: a run folder's names can form no markup, no link, no mention, no table cell, no fence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bncheck.report.plain_text import one_line

SPECIAL = re.compile(r"([\\`*_\[\]|~!])")
# At the start of a line these would begin a heading, a list or a quotation.
LEADING = re.compile(r"^([-+=]+|\d+[.)])(?=\s|$)")


def text(value: object, limit: int = 600) -> str:
    """One line of prose that renders as the very characters it holds."""
    line = one_line(str(value), limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = SPECIAL.sub(r"\\\1", line)
    # A name after @ would notify its owner, a number after # link an issue.
    line = re.sub(r"(?<![A-Za-z0-9.])@", "&#64;", line.replace("#", "&#35;"))
    # The last character of the mark is the one that a backslash takes the meaning from.
    return LEADING.sub(lambda found: f"{found[1][:-1]}\\{found[1][-1]}", line)


def code(value: object, limit: int = 200) -> str:
    """A code span, with more backticks around it than it holds in a row; safe in a table cell."""
    line = one_line(str(value), limit).replace("|", "\\|")
    ticks = "`" * (longest_run(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def fenced(content: str, language: str = "") -> list[str]:
    """A code block whose fence its content cannot close."""
    fence = "`" * max(3, longest_run(content) + 1)
    return [f"{fence}{language}", *content.rstrip("\n").split("\n"), fence]


def longest_run(content: str) -> int:
    return max((len(run) for run in re.findall(r"`+", content)), default=0)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Cells are ready Markdown (:func:`text` or :func:`code`)."""
    return ["", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows), ""]


def link(label: str, address: str) -> str:
    """A link to a web page; anything else stays text."""
    if not re.fullmatch(r"https?://[A-Za-z0-9._~:/?#@%&=+,;-]{1,400}", address):
        return text(label)
    return f"[{text(label)}](<{address}>)"
