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
        for item in some:
            values = (flat(getattr(item, name)) for name in names)
            writer.writerow(["" if value is None else value for value in values])
        yield out.getvalue()
        out.seek(0)
        out.truncate()
    yield out.getvalue()


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
