"""Pictures are drawn once for the same data: kept ones are those that would be drawn, and nothing else is taken."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path

import literal_run
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.report import kept_pictures
from bncheck.report.case_plot import draw
from bncheck.report.case_sheet import CaseSheet, lay_out
from bncheck.report.gallery import Gallery
from bncheck.report.kept_pictures import STAMP, are_likely, kept_or_drawn, mark, told
from bncheck.report.picture import Picture

TARGETS = ("reference", "torch", "mxnet")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BNCHECK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pictures"


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> CaseSheet:
    run, results = tmp_path_factory.mktemp("run"), literal_run.results()
    literal_run.write_run(run)
    found = lay_out(results, run, results.scenarios[0], results.scenarios[0].cases[0])
    assert found is not None
    return replace(found, created="2026-01-02T03:04:05Z")


class Pen:
    """Draws, and counts."""

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self, sheet: CaseSheet) -> Picture:
        self.drawn += 1
        return draw(sheet)


def test_a_kept_picture_is_the_one_that_would_be_drawn(sheet: CaseSheet) -> None:
    pen = Pen()
    for created in ("2026-01-02T03:04:05Z", "2027-12-31T23:59:59Z"):
        now = replace(sheet, created=created)
        found = kept_or_drawn(now, TARGETS, pen)
        assert found == draw(now)
        assert created in found.svg and STAMP not in found.svg
    assert pen.drawn == 1


def test_whatever_is_on_it_makes_another_picture(sheet: CaseSheet) -> None:
    pen, shown = Pen(), sheet.shown
    curve = shown.curves[1]
    moved = {name: np.nextafter(values, np.inf) for name, values in curve.measured.items()}
    others = (
        sheet,
        replace(sheet, verdict="another"),
        replace(sheet, version="9.9"),
        replace(sheet, looks={**sheet.looks, "torch": 5}),
        replace(sheet, shown=replace(shown, layer="other")),
        replace(sheet, shown=replace(shown, curves=(shown.curves[0], replace(curve, measured=moved)))),
        replace(sheet, shown=replace(shown, scenario=replace(shown.scenario, rtol=0.1))),
        replace(sheet, shown=replace(shown, channel={"running_mean": 1})),
    )
    assert [kept_or_drawn(other, TARGETS, pen) == draw(other) for other in others] == [True] * len(others)
    assert pen.drawn == len(others)
    assert {item.name for item in fields(CaseSheet)} == {"shown", "looks", "verdict", "version", "created"}


@pytest.mark.parametrize("damage", ["", "x", "[]", "{}", "cut", "other"])
def test_a_damaged_one_is_drawn_again(sheet: CaseSheet, cache: Path, damage: str) -> None:
    pen = Pen()
    whole = kept_or_drawn(sheet, TARGETS, pen)
    (path,) = cache.glob("*/*.json")
    text = path.read_text()
    path.write_text({"cut": text[:-9], "other": text.replace("stroke", "strike")}.get(damage, damage))
    assert kept_or_drawn(sheet, TARGETS, pen) == whole
    assert (pen.drawn, path.read_text()) == (2, text)


@pytest.mark.parametrize("created", ["", "yesterday", STAMP + STAMP, "<script>"])
def test_a_time_that_is_none_is_drawn_as_it_is(sheet: CaseSheet, cache: Path, created: str) -> None:
    odd = replace(sheet, created=created)
    assert kept_or_drawn(odd, TARGETS, draw) == draw(odd)
    assert not cache.exists()


def test_a_line_that_is_cut_before_its_time_is_drawn_as_it_is(sheet: CaseSheet) -> None:
    case = replace(sheet.shown.case, inputs={name: {"shape": [8, 3], "fill": "x" * 60} for name in "abc"})
    long = replace(sheet, shown=replace(sheet.shown, case=case))
    pen = Pen()
    assert [kept_or_drawn(long, TARGETS, pen) == draw(long) for _ in range(2)] == [True, True]
    assert pen.drawn == 4


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(sheet: CaseSheet, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file")
    assert kept_or_drawn(sheet, TARGETS, draw) == draw(sheet)
    mark(["all-ones"], TARGETS)
    assert not are_likely(["all-ones"], TARGETS)


def test_other_code_and_other_targets_have_pictures_of_their_own(
    sheet: CaseSheet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pen = Pen()
    kept_or_drawn(sheet, TARGETS, pen)
    kept_or_drawn(sheet, TARGETS[:2], pen)
    monkeypatch.setattr(kept_pictures, "code", lambda: "other")
    kept_or_drawn(sheet, TARGETS, pen)
    assert (pen.drawn, len(list(cache.iterdir()))) == (3, 3)


def test_only_the_newest_are_kept(sheet: CaseSheet, cache: Path) -> None:
    for number in range(kept_pictures.MOST_KEPT + 3):
        kept_or_drawn(sheet, [f"target-{number}"], draw)
    assert len(list(cache.iterdir())) == kept_pictures.MOST_KEPT


def test_a_gallery_says_what_it_has_kept(tmp_path: Path) -> None:
    results = replace(literal_run.results(), created="2026-01-02T03:04:05Z")
    literal_run.write_run(tmp_path, results)
    names, targets = [scenario.name for scenario in results.scenarios], [target.name for target in results.targets]
    assert not are_likely(names, targets)
    pictures = list(Gallery(results, tmp_path).draw_chosen())
    assert pictures and are_likely(names, targets) and not are_likely(names[:1], targets)
    assert list(Gallery(results, tmp_path).draw_chosen()) == pictures


values = st.recursive(
    st.floats() | st.integers() | st.text(max_size=3) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
)


@given(values, values)
def test_data_that_differ_are_told_apart(one: object, two: object) -> None:
    assert (told(one) == told(two)) == (repr(one) == repr(two))


def test_arrays_are_told_by_every_bit() -> None:
    zeros = np.zeros((2, 3))
    others = (zeros, -zeros, zeros.astype(np.float32), zeros.reshape(3, 2), zeros + 5e-324, np.full((2, 3), np.nan))
    assert len({told(other) for other in others}) == len(others)
    assert told(zeros) == told(np.zeros((2, 3)).T.T) and sys.byteorder == "little"
