"""``drifts.csv`` and ``findings.csv``: one row each, full precision, for spreadsheets and pandas."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncheck.evidence import Drift
from bncheck.finding import Finding
from bncheck.report.gallery import Gallery
from bncheck.run_folder.results import Results, plain, spell
from bncheck.run_folder.whole import write_whole

if TYPE_CHECKING:
    import pandas as pd

NAME = "csv"
AT_ONCE = 256  # rows
FEW = 1000  # rows


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write both tables; a table without rows still has its header."""
    if len(results.drifts) <= FEW and len(results.findings) <= FEW:
        return [
            write_whole(run_folder / "drifts.csv", plain_csv(list(results.drifts), Drift)),
            write_whole(run_folder / "findings.csv", plain_csv(results.findings, Finding)),
        ]
    return [
        write_csv(frames(results.drifts, Drift), run_folder / "drifts.csv"),
        write_csv(frames(results.findings, Finding), run_folder / "findings.csv"),
    ]


def plain_csv(items: Sequence[Any], kind: type) -> str:
    """The same text without pandas, whose import takes longer than all else that is done about one thing alone."""
    names, out = [item.name for item in fields(kind)], io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for item in items:
        values = (flat(getattr(item, name)) for name in names)
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue()


def frames(items: Iterable[Any], kind: type) -> Iterator[pd.DataFrame]:
    """A part at a time, an empty one first: in one table the drifts of 2,000 cells alone take 10 MiB."""
    yield frame([], kind)
    rest = iter(items)
    while some := list(islice(rest, AT_ONCE)):
        yield frame(some, kind)


def frame(items: Sequence[Any], kind: type) -> pd.DataFrame:
    """A column per field. Lists become ``a;b`` and mappings JSON, so that every field is one text or number."""
    import pandas as pd

    names = [item.name for item in fields(kind)]
    columns = {name: [flat(getattr(item, name)) for item in items] for name in names}
    table = pd.DataFrame(columns)
    if "first_event" in table:  # whole numbers with gaps: without this pandas writes 0.0
        table["first_event"] = table["first_event"].astype("Int64")
    if "event" in table:
        table["event"] = table["event"].astype("Int64")
    return table


def flat(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return spell(value)  # a blank cell means that there is no number, which is something else
    if isinstance(value, tuple):
        return ";".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(plain(value), ensure_ascii=False) if value else ""
    # Spreadsheets run a text that begins like a formula; a leading quote is how they are told not to.
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def write_csv(tables: Iterable[pd.DataFrame], path: Path) -> Path:
    """Tables of the same columns, one below the other."""
    return write_whole(path, (as_csv(table, head=number == 0) for number, table in enumerate(tables)))


def as_csv(table: pd.DataFrame, *, head: bool) -> str:
    return table.to_csv(index=False, header=head, na_rep="", lineterminator="\n")
