"""Sweeps: which axes are drawn, what their curves hold, and what stands where nothing could be measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import literal_run
import pytest

from bncheck.report import sweep
from bncheck.report.gallery import illustrators
from bncheck.report.html import page
from bncheck.report.sweep_curves import Point, short, sweeps
from bncheck.run_folder.results import CaseResult, CellResult, Results, ScenarioResult


def swept(values: list[Any], axis: str = "ratio", **more: Any) -> tuple[Results, ScenarioResult]:
    """One scenario whose cases have these values; the k-th case is off by 10^-k in running_var and agrees in output."""
    base = literal_run.results()
    cases = tuple(
        CaseResult(f"c{k}", matrix={axis: value, **more}, ops=("train_forward",)) for k, value in enumerate(values)
    )
    scenario = ScenarioResult("offset", "Offset", cases=cases)
    cells = tuple(CellResult("offset", case.name, target.name, target.slug, "ok")
                  for case in cases for target in base.targets[:3])  # fmt: skip
    drifts = tuple(
        literal_run.drift(f"c{k}", "torch", quantity, size, scenario="offset", max_rel=size)
        for k in range(len(cases)) for quantity, size in (("running_var", 10.0**-k), ("output", 1e-9))
    )  # fmt: skip
    return replace(base, scenarios=(scenario,), cells=cells, drifts=drifts, findings=()), scenario


def test_numbers_and_labels_that_begin_with_one_make_a_curve() -> None:
    results, scenario = swept([4, "1e3", "20"])
    (found,) = sweeps(results, scenario)
    assert (found.axis, found.group, found.xs) == ("ratio", "", ("4", "20", "1e3"))
    assert found.curves["torch", "running_var"] == (Point(1.0), Point(0.01), Point(0.1))
    assert found.quantities == ["running_var", "output"]
    assert ("mxnet", "running_var") not in found.curves


def test_what_follows_the_number_is_a_group_of_its_own() -> None:
    results, scenario = swept(["1", "2", "4", "1, 4-D", "2, 4-D", "4, 4-D"], "n")
    assert [(each.group, each.xs) for each in sweeps(results, scenario)] == [
        ("", ("1", "2", "4")), ("4-D", ("1", "2", "4"))
    ]  # fmt: skip


def test_other_axes_part_the_cases() -> None:
    results, scenario = swept([1, 2, 8], "input.shape.0", dtype="float32")
    (found,) = sweeps(results, scenario)
    assert (found.axis, found.group) == ("batch size", "dtype float32")
    assert short("network.arguments.depth") == "depth"


@pytest.mark.parametrize("values", [[1, 2], [True, False, True], ["a", "b", "c"], [1, 1, 1], [[1], [2], [3]]])
def test_two_points_words_and_switches_are_no_axis(values: list[Any]) -> None:
    results, scenario = swept(values)
    assert sweeps(results, scenario) == []


def test_where_nothing_was_measured_the_reason_stands() -> None:
    results, scenario = swept([1, 2, 3])
    cells = tuple(replace(c, outcome="raised") if (c.case, c.target) == ("c0", "torch") else c for c in results.cells)
    drifts = tuple(
        replace(d, relation="nonfinite", max_rel=float("nan")) if d.case == "c1" else d for d in results.drifts
    )
    (found,) = sweeps(replace(results, cells=cells, drifts=drifts), scenario)
    assert found.curves["torch", "running_var"] == (Point(None, "refused"), Point(None, "NaN"), Point(0.01))


def test_pictures_are_written_and_say_what_they_show(tmp_path: Path) -> None:
    results, _ = swept([1, 2, 3])
    paths = sweep.render(results, tmp_path)
    assert [path.name for path in paths] == ["offset--sweep-ratio.svg", "offset--sweep-ratio.png"]
    text = paths[0].read_text()
    for words in (
        "Offset",
        "ratio",
        "torch 2.13.0@cpu",
        "running variance: largest relative error",
        "mean |difference|",
    ):
        assert words in text
    assert paths[1].read_bytes()[:4] == b"\x89PNG"


def test_a_run_without_an_axis_writes_nothing(tmp_path: Path) -> None:
    assert sweep.render(literal_run.results(), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_the_page_shows_every_kind_of_picture_that_a_module_offers(tmp_path: Path) -> None:
    assert {"depth", "sweep"} <= set(illustrators())
    results, _ = swept([1, 2, 3])
    shown = page(results, tmp_path)
    assert "Difference from reference in running variance, output against ratio in offset." in shown
    assert "<figcaption>Difference" not in page(literal_run.results(), tmp_path)
