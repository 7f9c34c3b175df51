"""Pictures: what is drawn, that the SVG survives a strict policy, and that hostile or odd data do not stop it."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import literal_run
import numpy as np
import pytest
from matplotlib.image import imread

from bncheck.report import png
from bncheck.report.case_plot import bound, draw_case, sheet, step_words
from bncheck.report.curves import CaseCurves, Curve, case_curves, difference, onset, thin, told_apart
from bncheck.report.gallery import Gallery, by_interest
from bncheck.report.panel import COLOURS, DASHES, MARKERS, plain_tick, style
from bncheck.report.plot import render
from bncheck.report.svg import GRID, INK, PAPER, attributes, compact, short_path, themed
from bncheck.run_folder.results import CaseResult, Results


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    literal_run.write_run(folder)
    return folder


def results() -> Results:
    return literal_run.results()


@pytest.fixture(scope="module")
def svg(run: Path) -> str:
    picture = draw_case(results(), run, results().scenarios[0], results().scenarios[0].cases[0])
    assert picture is not None
    return picture.svg


def test_curves_are_the_recorded_ones_at_the_ends_of_steps(run: Path) -> None:
    scenario = results().scenarios[0]
    shown = case_curves(results(), run, scenario, scenario.cases[1])
    assert shown is not None and shown.steps == 100 and shown.layer == "bn"
    assert [curve.target for curve in shown.curves] == ["reference", "torch", "mxnet"]
    mxnet, reference = shown.of("mxnet"), shown.of("reference")
    assert mxnet is not None and reference is not None
    assert np.allclose(mxnet.measured["running_mean"][:4, 0], [0, 0.1, 0.19, 0.271])
    gap = difference(mxnet, reference, "running_mean")
    assert gap is not None and gap.max() == 0


def test_the_drift_of_r0_is_what_is_drawn(run: Path) -> None:
    scenario = results().scenarios[0]
    shown = case_curves(results(), run, scenario, scenario.cases[0])
    assert shown is not None
    mxnet, reference = shown.of("mxnet"), shown.of("reference")
    assert mxnet is not None and reference is not None
    gap = difference(mxnet, reference, "running_var")
    assert gap is not None
    assert f"{gap.mean():.5f} ± {gap.std():.5f}" == "0.90099 ± 0.20569"


def test_files_stand_in_plots_and_png_opens(run: Path) -> None:
    gallery = Gallery(results(), run, None, png=True)
    paths = [*render(results(), run, gallery), *png.render(results(), run, gallery)]
    assert {path.name for path in paths} >= {"all-ones--forward.svg", "all-ones--forward.png", "one-value--base.png"}
    image = imread(io.BytesIO((run / "plots" / "all-ones--forward.png").read_bytes()), format="png")
    assert image.shape[1] > 1000
    ElementTree.parse(run / "plots" / "all-ones--forward.svg")
    assert not list((run / "plots").glob("*.part"))


def test_a_png_is_drawn_only_when_asked_for(run: Path, tmp_path: Path) -> None:
    scenario = results().scenarios[0]
    plain = draw_case(results(), run, scenario, scenario.cases[0])
    asked = draw_case(results(), run, scenario, scenario.cases[0], png=True)
    assert plain is not None and asked is not None
    assert (plain.png, asked.png[:4], plain.svg == asked.svg) == (b"", b"\x89PNG", True)


def test_equal_runs_give_equal_bytes(run: Path, svg: str) -> None:
    again = draw_case(results(), run, results().scenarios[0], results().scenarios[0].cases[0])
    assert again is not None and again.svg == svg


def test_a_picture_shows_nothing_of_the_one_before(run: Path, svg: str) -> None:
    scenarios = results().scenarios
    other = draw_case(results(), run, scenarios[1], scenarios[1].cases[0])
    sheet.cache_clear()
    fresh = draw_case(results(), run, scenarios[1], scenarios[1].cases[0])
    assert other is not None and fresh is not None and other.svg == fresh.svg != svg


def test_svg_needs_no_style_and_loads_nothing(svg: str) -> None:
    assert "style=" not in svg and "<style" not in svg and "<metadata" not in svg
    assert re.findall(r'https?://[^"<\s]+', svg) == ["http://www.w3.org/2000/svg"]
    ids = re.findall(r' id="([^"]+)"', svg)
    assert len(ids) == len(set(ids)) and all(name.startswith("p-") for name in ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= set(ids)
    assert len(svg) < 60_000


def test_svg_says_what_it_shows(svg: str) -> None:
    for words in (
        "torch 2.13.0@cpu", "mxnet 1.9.1@cpu", "running mean, layer bn", "BN103 update-phase", "all-ones--forward",
        "accounts for 100.0 %", "within tolerance", "computed again", "step (1 step = 1 train forward",
    ):  # fmt: skip
        assert words in svg, words


def test_a_long_step_does_not_run_into_the_next_panel(run: Path) -> None:
    loop = CaseResult(name="base", ops=("train_forward", "backward") * 2, steps=(1, 3))
    assert step_words(loop) == "step (1 step = 1 train forward + backward; 0 = initial state)"
    twice = ("train_forward", "train_forward", "backward")
    case = replace(results().scenarios[0].cases[0], ops=twice * 2, steps=(2, 5))
    assert step_words(case) == "step (0 = initial state)"
    picture = draw_case(results(), run, results().scenarios[0], case)
    assert picture is not None and "2 steps of 1 train forward + train forward + backward" in picture.svg


def test_where_numbers_end_is_marked(run: Path) -> None:
    picture = draw_case(results(), run, results().scenarios[1], results().scenarios[1].cases[0])
    assert picture is not None and "mxnet: NaN since step 1" in picture.svg


def test_a_page_chooses_the_colours(svg: str) -> None:
    shown = themed(svg, COLOURS, "A &lt;title&gt;")
    assert INK not in shown and GRID not in shown and PAPER not in shown
    assert 'data-stroke="s1"' in shown and 'aria-label="A &lt;title&gt;"' in shown
    ElementTree.fromstring(shown)


def test_targets_differ_without_colour() -> None:
    looks = [(str(style(k)["linestyle"]), style(k)["marker"]) for k in range(len(COLOURS))]
    assert len(set(looks)) == len(COLOURS) == len(MARKERS) == len(DASHES)
    assert len({str(style(k)) for k in range(36)}) == 36


def contrast(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_is_legible_on_white(colour: str) -> None:
    assert contrast(colour) >= 3


def test_style_becomes_attributes() -> None:
    assert attributes("fill: none; stroke: #000000") == 'fill="none" stroke="#000000"'
    assert attributes("font: bold 12px 'DejaVu Sans'; text-anchor: middle") == (
        'font-size="12" font-weight="bold" text-anchor="middle"'
    )
    assert short_path("M 1.23456 2.0\nL 3 -4.005") == "M 1.23 2 L 3 -4"
    assert compact('<?xml?><svg width="1pt" height="1pt"><g id="a" style="fill: #fff"/></svg>', "p").endswith(
        '<g fill="#fff"/></svg>'
    )


def test_ticks_have_the_decimals_they_need() -> None:
    quarter, tenth, small = np.array([0, 0.25, 0.5]), np.array([0.1, 0.2]), np.array([0, 2e-5])
    assert [plain_tick(v, quarter) for v in quarter] == ["0.00", "0.25", "0.50"]
    assert plain_tick(0.2, tenth) == "0.2" and plain_tick(2e-5, small) == "2.00e-05"


def test_onset_and_thinning_keep_what_matters() -> None:
    assert onset(np.array([[0.0], [np.nan], [1.0]])) == 1 and onset(np.zeros((3, 2))) is None
    spike = np.zeros(100_000)
    spike[54_321] = 1
    kept = thin(spike)
    assert 54_321 in kept and len(kept) < 500 and kept[0] == 0 and kept[-1] == 99_999


def test_equal_infinities_do_not_drift(run: Path, tmp_path: Path) -> None:
    scenario = results().scenarios[0]
    shown = case_curves(results(), run, scenario, scenario.cases[0])
    assert shown is not None
    base = replace(shown.curves[0], measured={"running_mean": np.array([[0.0], [np.inf], [np.nan], [1.0]])})
    other = replace(base, measured={"running_mean": np.array([[0.0], [np.inf], [np.nan], [np.nan]])})
    gap = difference(other, base, "running_mean")
    assert gap is not None
    assert gap[:3].tolist() == [0, 0, 0] and np.isnan(gap[3])


@pytest.mark.parametrize("values", [np.nan, np.inf, 0.0, 1e300, 1e-300])
def test_any_values_can_be_drawn(tmp_path: Path, values: float) -> None:
    literal_run.write_run(tmp_path)
    place = tmp_path / "cells" / "mxnet" / "all-ones--forward" / "trace.npz"
    np.savez(
        place,
        **{
            "bn/running_mean": np.full((101, 3), values),
            "bn/running_var": np.full((7, 2), values),
            "bn/n": np.ones(100),
        },
    )
    scenario = results().scenarios[0]
    assert draw_case(results(), tmp_path, scenario, scenario.cases[0]) is not None


def test_a_case_without_recordings_has_no_picture(tmp_path: Path) -> None:
    scenario = results().scenarios[0]
    assert draw_case(results(), tmp_path, scenario, scenario.cases[0]) is None
    assert render(results(), tmp_path) == []


def test_a_case_with_a_finding_is_drawn_before_one_without(run: Path) -> None:
    order = [(case.name, rank) for rank, (_, case) in by_interest(results())]
    assert order == [("forward", 0), ("base", 0), ("forward-backward", 2)]
    assert len(Gallery(results(), run, 1).chosen()) == 1
    assert len(Gallery(results(), run, None).chosen()) == 3


def test_probes_are_not_drawn_beside_what_was_asked_for_unless_they_show_something() -> None:
    whole = results()
    rest = next(
        scenario for scenario in whole.scenarios if any(case.name == "forward-backward" for case in scenario.cases)
    )
    probes = tuple(replace(each, probe=True) if each is rest else each for each in whole.scenarios)
    beside = Gallery(replace(whole, scenarios=probes), Path(), None)
    assert "forward-backward" in [case.name for _, case in beside.chosen()], "all were asked for"
    shown = Gallery(replace(whole, scenarios=probes, findings=()), Path())
    assert [scenario.probe for scenario, _ in shown.chosen()] == [False]
    alone = replace(whole, scenarios=tuple(replace(each, probe=True) for each in whole.scenarios), findings=())
    assert len(Gallery(alone, Path()).chosen()) == 3


def test_twenty_targets_fit(tmp_path: Path) -> None:
    base = results()
    targets = [replace(base.targets[0], name=f"torch=={n}.0", slug=f"torch-{n}.0", version=f"{n}.0") for n in range(20)]
    cells = [replace(base.cells[0], target=target.name, slug=target.slug) for target in targets]
    run = replace(base, targets=tuple(targets), cells=tuple(cells), drifts=(), findings=(), named_yardstick="")
    literal_run.write_run(tmp_path, run)
    picture = draw_case(run, tmp_path, run.scenarios[0], run.scenarios[0].cases[0])
    assert picture is not None and "torch==19.0" in picture.svg


def variances(target: str, value: float) -> Curve:
    return Curve(target, target, {"running_var": np.array([[1.0], [value]])})


def test_the_band_that_is_drawn_is_the_one_that_judges() -> None:
    """A variance of 1e-4 that is 5e-6 off differs: the absolute tolerance shrinks with what is small."""
    run = results()
    scenario = replace(run.scenarios[0], rtol=None, atol=None)
    base = variances("reference", 1e-4)
    shown = CaseCurves(scenario, scenario.cases[0], "bn", (base, variances("torch", 1.05e-4)), "reference", {})
    assert bound(shown, base, "running_var", "float32") == pytest.approx([1e-5 + 1.3e-6, 1e-9 + 1.3e-10])
    written = replace(shown, scenario=replace(scenario, atol=1e-5))
    assert bound(written, base, "running_var", "float32") == pytest.approx([1e-5 + 1.3e-6, 1e-5 + 1.3e-10])


def test_a_mean_that_is_zero_has_the_band_of_its_standard_deviation() -> None:
    run = results()
    scenario = replace(run.scenarios[0], rtol=None, atol=None)
    base = Curve("reference", "", {"running_mean": np.array([[0.0]]), "running_var": np.array([[0.01]])})
    shown = CaseCurves(scenario, scenario.cases[0], "bn", (base,), "reference", {})
    assert bound(shown, base, "running_mean", "float32") == pytest.approx([1e-6])


def test_the_dtype_of_the_band_is_that_of_the_statistics(run: Path) -> None:
    """A case in float16 whose statistics are float32 in one target and float16 in another has two bands."""
    whole = results()
    half = [replace(drift, dtype="float16") if drift.b == "mxnet" else drift for drift in whole.drifts]
    scenario = replace(whole.scenarios[0], cases=(replace(whole.scenarios[0].cases[0], dtype="float16"),))
    shown = case_curves(replace(whole, drifts=tuple(half)), run, scenario, scenario.cases[0])
    assert shown is not None and shown.dtypes["running_var"] == ("float16", "float32")
    picture = draw_case(replace(whole, drifts=tuple(half)), run, scenario, scenario.cases[0])
    assert picture is not None and ">float16</text>" in picture.svg and ">float32</text>" in picture.svg


def test_of_many_targets_those_that_agree_are_one_curve() -> None:
    """By the run's own drifts: torch agrees with the reference, mxnet does not, and nobody compared a fourth."""
    curves = [Curve(name, f"{name} 1.0", {}) for name in ("reference", "torch", "mxnet", "keras")]
    kept = told_apart(results(), "all-ones", "forward", "bn", curves)
    assert [curve.label for curve in kept] == ["reference 1.0 and 1 alike", "mxnet 1.0", "keras 1.0"]
