"""``drifts.csv`` and ``findings.csv``: one row each, full precision, for spreadsheets and pandas."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncheck.evidence import Drift
from bncheck.finding import Finding
from bncheck.report.gallery import Gallery
from bncheck.run_folder.results import Results, key_of, plain, spell
from bncheck.run_folder.whole import write_whole

if TYPE_CHECKING:
    import pandas as pd

NAME = "csv"
AT_ONCE = 256  # rows
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what one begins with


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    """Write both tables; a table without rows still has its header."""
    return [
        write_whole(run_folder / "drifts.csv", lines(results.drifts, Drift)),
        write_whole(run_folder / "findings.csv", lines(results.findings, Finding)),
    ]


def lines(items: Iterable[Any], kind: type) -> Iterator[str]:
    """The text of a table, a part at a time: in one piece the drifts of 2,000 cells alone take 10 MiB. A column per
    field; lists become ``a;b`` and mappings JSON, so that every field is one text or number.

    Without pandas, whose import takes longer than all else that is done about a few cases."""
    names, out = [item.name for item in fields(kind)], io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([key_of(kind, name) for name in names])
    rest = iter(items)
    while some := list(islice(rest, AT_ONCE)):
        writer.writerows([flat(getattr(item, name)) for name in names] for item in some)
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    yield out.getvalue()


def flat(value: Any) -> Any:
    """What the writer takes as it is: most of a thousand drifts are numbers and words. None is a blank cell."""
    if isinstance(value, str):
        # Spreadsheets run a text that begins like a formula; a leading quote is how they are told not to.
        return "'" + value if value.startswith(FORMULAS) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else spell(value)  # a blank cell would mean that there is no number
    if isinstance(value, tuple):
        return ";".join(map(str, value))
    if isinstance(value, dict):
        return json.dumps(plain(value), ensure_ascii=False) if value else ""
    return value


def write_csv(tables: Iterable[pd.DataFrame], path: Path) -> Path:
    """Tables of the same columns, one below the other."""
    return write_whole(path, (as_csv(table, head=number == 0) for number, table in enumerate(tables)))


def as_csv(table: pd.DataFrame, *, head: bool) -> str:
    return table.to_csv(index=False, header=head, na_rep="", lineterminator="\n")
