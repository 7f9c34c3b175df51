"""The lines of the user's code that a life speaks of, kept in the run folder: a report is often read where the code is
not.

They are read once, on the machine and in the moment of the recording. A report never opens a file that a run folder
names: the folder may come from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bncheck.bounded import read_bounded
from bncheck.life import Life, Where
from bncheck.run_folder.folder import WATCHED, read_json, write_json

NAME = "lines.json"
MOST_FILES, MOST_LINES = 200, 2000
LARGEST_SOURCE = 4 << 20
LONGEST = 300

Texts = Mapping[tuple[str, int], str]


def places(lives: Sequence[Life]) -> Iterator[Where]:
    for life in lives:
        yield from (each.where for each in life.happenings if each.where is not None)
        for layer in life.layers:
            if layer.made_at is not None:
                yield layer.made_at
            yield from (span.called_from for span in layer.spans if span.called_from is not None)


def look_up(lives: Sequence[Life]) -> tuple[Life, ...]:
    """The lives with the text of each line, as the files have it now; "" where a file cannot be read."""
    wanted: dict[str, set[int]] = {}
    for where in places(lives):
        if len(wanted) < MOST_FILES or where.file in wanted:
            wanted.setdefault(where.file, set()).add(where.line)
    texts: dict[tuple[str, int], str] = {}
    for file, numbers in wanted.items():
        lines = source(Path(file))
        texts |= {(file, number): lines[number - 1] for number in numbers if 0 < number <= len(lines)}
    return with_texts(lives, texts)


def source(path: Path) -> list[str]:
    try:
        if path.suffix != ".py" or not path.is_file() or path.stat().st_size > LARGEST_SOURCE:
            return []
        return read_bounded(path, LARGEST_SOURCE).decode("utf-8", "replace").splitlines()
    except OSError:
        return []  # code that is gone or not ours to read: the report shows file and line alone


def with_texts(lives: Sequence[Life], texts: Texts) -> tuple[Life, ...]:
    def told(where: Where | None) -> Where | None:
        text = "" if where is None else texts.get((where.file, where.line), "")
        return replace(where, text=text.strip()[:LONGEST]) if where is not None and text else where

    return tuple(with_places(life, told) for life in lives)


def with_places(life: Life, told: Callable[[Where | None], Where | None]) -> Life:
    return replace(
        life,
        happenings=tuple(replace(each, where=told(each.where)) for each in life.happenings),
        layers=tuple(
            replace(
                layer,
                made_at=told(layer.made_at),
                spans=tuple(replace(span, called_from=told(span.called_from)) for span in layer.spans),
            )
            for layer in life.layers
        ),
    )


def write_lines(run: Path, lives: Sequence[Life]) -> None:
    """Keep the texts that the lives carry; nothing where they carry none."""
    found = {(where.file, where.line): where.text for where in places(lives) if where.text}
    rows = [[file, line, text] for (file, line), text in list(found.items())[:MOST_LINES]]
    if rows:
        write_json(run / WATCHED / NAME, rows)


def read_lines(run: Path, lives: Sequence[Life]) -> tuple[Life, ...]:
    """The lives with the texts that were kept. What is no such list is left out: it is decoration, and untrusted."""
    path = run / WATCHED / NAME
    rows = read_json(path) if path.is_file() else []
    texts = {
        (row[0], row[1]): row[2]
        for row in (rows[:MOST_LINES] if isinstance(rows, list) else [])
        if isinstance(row, list) and [type(each) for each in row] == [str, int, str]
    }
    return with_texts(lives, texts)
