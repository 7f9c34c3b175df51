"""``answer.json``: what a verb on a subject says beside its findings, as frozen data that is written and read back.

Every report of such a run shows it in the place where a run of scenarios has its matrix. Like everything in a run
folder it is untrusted when it is read: types and lengths are checked, and reports escape what they show.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import MaxLen

from bncheck.errors import RunFolderError
from bncheck.run_folder.folder import read_json, write_json
from bncheck.run_folder.whole import Stamp, stamp_of

NAME = "answer.json"
MOST = 100_000  # rows; a model of so many normalising layers is none


@dataclass(frozen=True)
class Row:
    """One layer of the table: ``cells`` are as many as the answer has columns, as a person reads them; ``mark`` is a
    finding's kind, "agrees", or "" where nothing is said about it."""

    layer: Annotated[str, MaxLen(1000)]
    cells: Annotated[tuple[str, ...], MaxLen(64)]
    mark: Annotated[str, MaxLen(64)] = ""


@dataclass(frozen=True)
class Answer:
    """``verb`` is check, diff or watch; ``subject`` what the user named; ``headline`` the answer in one line; ``each``
    what a row is about, where that is no layer (a quantity, a node)."""

    verb: Annotated[str, MaxLen(64)]
    subject: Annotated[str, MaxLen(4000)]
    headline: Annotated[str, MaxLen(4000)]
    columns: Annotated[tuple[str, ...], MaxLen(64)] = ()
    rows: Annotated[tuple[Row, ...], MaxLen(MOST)] = ()
    notes: Annotated[tuple[str, ...], MaxLen(1000)] = ()
    each: Annotated[str, MaxLen(64)] = "layer"


LATEST: dict[Stamp, Answer] = {}  # the one that was last written or read: each report of a run asks for it


def write_answer(answer: Answer, run_folder: Path) -> None:
    write_json(run_folder / NAME, asdict(answer))
    LATEST.clear()
    LATEST[stamp_of(run_folder / NAME)] = answer


def read_answer(run_folder: Path) -> Answer | None:
    """The answer of a run folder; None where it is a run of scenarios. RunFolderError where it cannot be read."""
    path = run_folder / NAME
    if not path.is_file():
        return None
    stamp = stamp_of(path)
    if stamp not in LATEST:
        LATEST.clear()
        LATEST[stamp] = parse_answer(path)
    return LATEST[stamp]


def parse_answer(path: Path) -> Answer:
    from pydantic import TypeAdapter, ValidationError  # who only writes one need not import what checks it

    try:
        answer = TypeAdapter(Answer).validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RunFolderError(f"{path} cannot be used: {place}: {first['msg']}.", "The file was edited.") from None
    if any(len(row.cells) != len(answer.columns) for row in answer.rows):
        raise RunFolderError(f"{path} has a row whose length is not that of its columns.", "The file was edited.")
    return answer
