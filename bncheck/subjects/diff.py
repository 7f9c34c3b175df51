"""``diff A B``: dispatch by what the two things are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.errors import UsageError
from bncheck.run_folder.results import Results
from bncheck.subjects.begun import begin_nursery
from bncheck.subjects.sides import KERAS, AskedDiff, Side

if TYPE_CHECKING:
    from bncheck.playing.progress import Listener


def diff(asked: AskedDiff, listener: Listener) -> tuple[Path, Results]:
    """The run folder and what was found. UsageError and its like for what cannot be compared."""
    asked = replace(asked, a=as_played(asked.a, asked.b), b=as_played(asked.b, asked.a))
    kinds = {asked.a.kind, asked.b.kind}
    if asked.after is not None:
        if kinds != {"code"} or asked.after.kind != "code" or asked.after.path is None:
            raise UsageError(
                f"--after calls a function of a file with a model: {asked.a.text}, {asked.after.text} are not that.",
                "bncheck diff model.py:build --after tools.py:convert",
            )
        with begun(asked) as asked:
            from bncheck.subjects.changed import compare_change

            return compare_change(asked, listener)
    if kinds <= {"checkpoint", "onnx"} and "checkpoint" in kinds:
        from bncheck.subjects.two_files import compare_files

        return compare_files(asked, listener)
    if "checkpoint" not in kinds:
        with begun(asked) as asked:
            from bncheck.subjects.exported import compare_plays

            return compare_plays(asked, listener)
    played, file = (asked.b, asked.a) if asked.a.kind == "checkpoint" else (asked.a, asked.b)
    if played.kind == "code":
        raise UsageError(
            f"{asked.a.text} against {asked.b.text} is unsupported: one is code, the other weights.",
            f"load the weights into the model: bncheck check {played.text} --weights {file.text}; to compare what both "
            "hold, save the model's state_dict() and give that file",
        )
    raise UsageError(
        f"{asked.a.text} against {asked.b.text} is unsupported: one can be played, {file.text} is weights alone.",
        f"hold it against the model with its weights: bncheck diff model.py:build {played.text} --weights {file.text}",
    )


@contextmanager
def begun(asked: AskedDiff) -> Iterator[AskedDiff]:
    """Where one of the two is a model: its framework is imported once for all playings, and before bncheck's own."""
    things = [side.thing for side in (asked.a, asked.b) if side.kind == "code" and side.thing is not None]
    nursery = begin_nursery(things[0], asked.python) if things else None
    with closing(nursery) if nursery else nullcontext():
        yield replace(asked, nursery=nursery)


def as_played(side: Side, other: Side) -> Side:
    """A Keras file with a whole model in it is played, where the other side is no checkpoint."""
    if side.kind != "checkpoint" or other.kind == "checkpoint" or side.path is None or side.state:
        return side
    from bncheck.checkpoints.keras_file import holds_model

    whole = side.path.suffix.lower() in KERAS and holds_model(side.path)
    return replace(side, kind="keras") if whole else side
