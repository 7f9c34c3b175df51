"""``diff A B``: dispatch by what the two things are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.errors import UsageError
from bncheck.run_folder.results import Results
from bncheck.subjects.sides import PAIRS, AskedDiff

if TYPE_CHECKING:
    from bncheck.session import Listener  # it imports what plays cells


def diff(asked: AskedDiff, listener: Listener) -> tuple[Path, Results]:
    """The run folder and what was found. UsageError and its like for what cannot be compared."""
    kinds = {asked.a.kind, asked.b.kind}
    if asked.after is not None:
        if kinds != {"code"} or asked.after.kind != "code" or asked.after.path is None:
            raise UsageError(
                f"--after calls a function of a file with a model: {asked.a.text}, {asked.after.text} are not that.",
                "bncheck diff model.py:build --after tools.py:convert",
            )
        from bncheck.subjects.changed import compare_change

        return compare_change(asked, listener)
    if kinds <= {"checkpoint", "onnx"} and "checkpoint" in kinds:
        from bncheck.subjects.two_files import compare_files

        return compare_files(asked, listener)
    if kinds <= {"code", "onnx"}:
        from bncheck.subjects.exported import compare_plays

        return compare_plays(asked, listener)
    if kinds == {"code", "checkpoint"}:
        model, file = (asked.a, asked.b) if asked.a.kind == "code" else (asked.b, asked.a)
        raise UsageError(
            f"{asked.a.text} against {asked.b.text} is unsupported: one is code, the other weights.",
            f"load the weights into the model: bncheck check {model.text} --weights {file.text}",
        )
    raise UsageError(f"{asked.a.text} against {asked.b.text} is unsupported.", f"bncheck diff compares {PAIRS}")
