"""Drifts in rows: what comes out is what went in, however it is asked for."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import literal_run
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.errors import RunFolderError
from bncheck.evidence import Drift
from bncheck.run_folder import drift_table
from bncheck.run_folder.drift_table import DriftTable
from bncheck.run_folder.results import read_results, write_results

WORD = st.sampled_from(["", "torch", "mxnet", "running_mean", "bn", "é"])
COUNT = st.integers(0, 2**40)
SIZE = st.floats(allow_nan=False)
DRIFTS = st.lists(
    st.builds(
        Drift, WORD, WORD, WORD, WORD, WORD, WORD, COUNT, SIZE, SIZE, SIZE, SIZE, SIZE, st.none() | st.integers(-1, 9),
        COUNT, COUNT, st.sampled_from(["agrees", "differs", "nonfinite"]), WORD,
    ),
    max_size=200,
)  # fmt: skip
ONE = Drift("s", "c", "torch", "mxnet", "bn", "running_mean", 5, 0.5, 0.25, 1.0, 2.0, 3.0, 4, 0, 1, "differs")


@given(DRIFTS, st.integers(0, 200))
def test_a_table_holds_what_a_list_would(drifts: list[Drift], cut: int) -> None:
    cut %= len(drifts) + 1
    table = DriftTable(drifts[:cut])
    table.extend(DriftTable(drifts[cut:]))  # whose words have other numbers
    assert len(table) == len(drifts)
    assert list(table) == drifts
    assert [table[at] for at in range(-len(drifts), len(drifts))] == [*drifts, *drifts]
    assert list(table[1::2]) == drifts[1::2]
    assert list(table.differing()) == [drift for drift in drifts if drift.relation != "agrees"]
    assert list(pickle.loads(pickle.dumps(table))) == drifts


@given(DRIFTS, WORD, WORD, WORD, WORD)
def test_one_pair_of_one_case_in_either_order(drifts: list[Drift], scenario: str, case: str, a: str, b: str) -> None:
    table = DriftTable(drifts)
    wanted = [d for d in drifts if (d.scenario, d.case) == (scenario, case) and sorted((d.a, d.b)) == sorted((a, b))]
    assert list(table.between(scenario, case, a, b)) == wanted
    assert table.between(scenario, case, b, a) == table.between(scenario, case, a, b)
    assert table.of_case(scenario, case) == [d for d in drifts if (d.scenario, d.case) == (scenario, case)]


def test_what_is_added_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_table, "IN_MEMORY", 1000)  # most of it lies in a file
    table = DriftTable()
    for number in range(100):
        table.extend([replace(ONE, case=f"c{number % 10}", points=number)])
        assert [d.points for d in table.between("s", "c3", "mxnet", "torch")] == list(range(3, number + 1, 10))
    assert table.between("s", "c3", "torch", "reference") == ()
    assert table.between("s", "gone", "torch", "mxnet") == ()


def test_a_case_that_nobody_knows_is_not_the_one_that_is_called_like_its_scenario() -> None:
    table = DriftTable([replace(ONE, scenario="s", case="s")])
    assert (table.of_case("s", "gone"), table.of_case("gone", "s")) == ([], [])
    assert table.between("s", "gone", "torch", "mxnet") == ()


def test_words_keep_their_meaning_where_tables_are_joined() -> None:
    table = DriftTable([ONE])
    table.extend(DriftTable([replace(ONE, a="mxnet", b="torch", case="d", quantity="gamma")]))
    assert [(d.a, d.b, d.case, d.quantity) for d in table] == [
        ("torch", "mxnet", "c", "running_mean"), ("mxnet", "torch", "d", "gamma"),
    ]  # fmt: skip


def test_no_event_and_the_initial_state_are_told_apart() -> None:
    drifts = [replace(ONE, first_event=event) for event in (None, -1, 0)]
    assert [drift.first_event for drift in DriftTable(drifts)] == [None, -1, 0]


def test_an_index_beyond_the_end_is_no_drift() -> None:
    with pytest.raises(IndexError):
        DriftTable([ONE])[1]


def test_a_count_that_no_run_has_is_said_in_a_sentence(tmp_path: Path) -> None:
    path = write_results(literal_run.results(), tmp_path)
    data = json.loads(path.read_text(encoding="utf-8"))
    data["drifts"][0]["points"] = 10**30
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(RunFolderError, match="a drift counts more than there can be"):
        read_results(tmp_path)
