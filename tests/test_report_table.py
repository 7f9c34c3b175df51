"""drifts.csv and findings.csv."""

from __future__ import annotations

from pathlib import Path

import literal_run
import pandas as pd

from bncheck.evidence import Drift
from bncheck.report.table import AT_ONCE, lines, render


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / name, keep_default_na=False)


def test_drifts_have_the_stable_columns_and_full_precision(tmp_path: Path) -> None:
    run = literal_run.results()
    drifts, findings = render(run, tmp_path)
    assert (drifts.name, findings.name) == ("drifts.csv", "findings.csv")
    table = read(tmp_path, "drifts.csv")
    assert list(table.columns) == [
        "scenario", "case", "a", "b", "layer", "quantity", "points", "mean_abs", "std_abs", "max_abs", "max_rel",
        "max_ulp", "first_event", "nonfinite_a", "nonfinite_b", "verdict", "dtype",
    ]  # fmt: skip
    assert len(table) == len(run.drifts)
    row = table[(table.b == "mxnet") & (table.case == "forward") & (table.quantity == "running_mean")].iloc[0]
    assert float(row.mean_abs) == literal_run.OFF and float(row.std_abs) == literal_run.SPREAD
    assert f"{float(row.mean_abs):.5f} ± {float(row.std_abs):.5f}" == "0.90099 ± 0.20569"
    assert str(row.first_event) == "0"


def test_not_a_number_is_a_word_and_nothing_is_blank(tmp_path: Path) -> None:
    render(literal_run.results(), tmp_path)
    table = read(tmp_path, "drifts.csv")
    assert set(table[table.verdict == "nonfinite"].max_abs) == {"nan"}
    assert set(table[table.verdict == "agrees"].first_event) == {""}
    findings = read(tmp_path, "findings.csv")
    assert list(findings.explained) == ["1.0", ""] or list(findings.explained) == [1.0, ""]
    assert findings.targets[0] == "mxnet;reference"
    assert findings.evidence[0] == '{"points": 101, "replay residual": 6e-08}'


def test_a_row_is_written_as_it_reads() -> None:
    one = literal_run.drift("forward", "mxnet", "running_mean", 0.1, 0.25)
    head, row = "".join(lines([one], Drift)).splitlines()
    assert head.startswith("scenario,case,a,b,layer,quantity,points,mean_abs,std_abs,")
    assert (
        row == "all-ones,forward,reference,mxnet,bn,running_mean,101,0.1,0.25,0.35,0.1,838860.8,0,0,0,differs,float32"
    )


def test_many_rows_are_one_table() -> None:
    one = literal_run.drift("forward", "mxnet", "running_mean", 0.1, 0.25)
    parts = list(lines([one] * (2 * AT_ONCE + 3), Drift))
    assert len(parts) == 4  # never all of it in memory
    text = "".join(parts)
    assert text.count("\n") == 2 * AT_ONCE + 4 and text.count("scenario,case") == 1
    assert set(text.splitlines()[1:]) == {text.splitlines()[1]}


def test_tables_without_rows_have_their_header(tmp_path: Path) -> None:
    render(literal_run.results(drifts=(), findings=()), tmp_path)
    assert (tmp_path / "drifts.csv").read_text().startswith("scenario,case,a,b,layer,quantity,points,mean_abs,")
    assert (tmp_path / "findings.csv").read_text().count("\n") == 1


def test_a_text_that_a_spreadsheet_would_run_is_quoted(tmp_path: Path) -> None:
    render(literal_run.results(findings=(literal_run.finding(title="=HYPERLINK(1)"),)), tmp_path)
    assert read(tmp_path, "findings.csv").title[0] == "'=HYPERLINK(1)"
