"""Stdout and stderr as a daemon, cron, an old terminal or a closed one leave them: what is said degrades, and what is
found out and the exit code stay.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from contextlib import suppress

# What tables and sentences use, in ASCII; their meaning must not be lost in a row of question marks.
PLAIN = {
    "·": ".", "→": "->", "←": "<-", "−": "-", "–": "-", "—": "-",
    "…": "...", "×": "x", "±": "+-", "²": "^2", "³": "^3",
    "≠": "!=", "≤": "<=", "≥": ">=", "≈": "~", "√": "sqrt", "●": "*", "○": "o", "✓": "ok", "✗": "x", "⊘": "-",
    "∞": "inf", "─": "-", "│": "|", "├": "|", "╰": "`", "▶": ">",
    "γ": "gamma", "β": "beta", "σ": "sigma", "μ": "mu", "µ": "u",
    "κ": "kappa", "λ": "lambda", "δ": "delta", "Σ": "sum", "“": '"', "”": '"', "’": "'", "━": "-", "╸": "-", "╺": "-",
}  # fmt: skip


def plainly(error: UnicodeError) -> tuple[str, int]:
    """The handler of characters that a stream's encoding does not have."""
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(PLAIN.get(letter, "?") for letter in lost), error.end


def prepare() -> None:
    """Before anything is opened or said: descriptors 0 to 2 lead somewhere, and the streams write whatever they get.

    Without the first the next file that is opened is what a library prints into."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - open as long as it runs
    codecs.register_error("bncheck", plainly)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a stream that somebody else has put there
            stream.reconfigure(errors="bncheck")  # type: ignore[union-attr]


def help_width() -> int:
    """Columns of a help page: those of the terminal, at most 80, less 2. As click reckons, whose way to the number
    imports shutil with all its compressors, which takes as long as reading our own commands."""
    try:
        columns = int(os.environ.get("COLUMNS", "0"))
        columns = columns if columns > 0 else os.get_terminal_size(sys.__stdout__.fileno()).columns  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):
        columns = 80
    return max(min(columns or 80, 80) - 2, 50)


def leave_what_is_gone() -> None:
    """A terminal that was closed takes nothing any more, not even an empty write: what follows goes nowhere."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def sayable_json(text: str) -> str:
    """JSON that stdout can hold and a parser reads back as the same."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
        return text
    except (UnicodeEncodeError, LookupError):
        import json  # --help can do without: it is a tenth of its time

        return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], text)
