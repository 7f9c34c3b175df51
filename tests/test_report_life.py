"""A life as pictures show it, from literal numbers; and that a long one of a large model is drawn in time."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from literal_life import ANSWER, HERE, LEAK, LIFE, STEPS, STUCK, layer, many, results, span, write_answered
from test_report_html import CHROMIUM, EVIL, Tags, browser, needs_browser  # noqa: F401

from bncheck.life import Happening, Life
from bncheck.report import render
from bncheck.report.answer_page import concerned
from bncheck.report.gallery import Gallery
from bncheck.report.happened import line_of, place_of
from bncheck.report.html import page
from bncheck.report.layers import arrange
from bncheck.report.life_axis import Axis, axis_of, gap_by_column, gap_of, moved_lanes
from bncheck.report.timeline import distance_map, timeline, to_number
from bncheck.run_folder.lives import read_lives
from bncheck.run_folder.source_lines import look_up, read_lines, write_lines
from bncheck.run_folder.write_life import write_life


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    write_answered(folder)
    write_life(LIFE, folder)
    return folder


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return page(results(), run, Gallery(results(), run))


# ----------------------------------------------------------------------------------------------------------- numbers


def test_the_gap_is_in_deviations_of_the_batch() -> None:
    arrays = {
        "index": np.arange(3), "step": np.arange(3),
        "mean_before": np.array([[0.0, 0.0], [1.0, 3.0], [1.0, np.nan]]),
        "input_mean": np.array([[2.0, 2.0], [1.0, 1.0], [1.0, 1.0]]),
        "input_var": np.array([[4.0, 4.0], [1.0, 0.0], [1.0, 1.0]]),
    }  # fmt: skip
    # 2 off in deviations of 2; a channel that does not vary says nothing; a NaN is no number.
    assert gap_of(layer("bn", moments=arrays)).tolist() == [1.0, 0.0, np.inf]


def test_without_statistics_there_is_no_gap() -> None:
    only = {"index": np.arange(2), "step": np.arange(2), "n": np.array([8, 8])}
    assert np.isnan(gap_of(layer("bn", moments=only))).all()


def test_time_goes_by_steps_and_where_nothing_is_stepped_by_forwards() -> None:
    assert axis_of(LIFE) == Axis("step", 0, STEPS)
    assert axis_of(replace(LIFE, steps=0)) == Axis("forward", 0, 3 * (STEPS - 1))


def test_what_was_not_kept_is_not_drawn_as_if_nothing_ran() -> None:
    few = {key: values[[0, 50]] for key, values in STUCK.moments.items()}
    thin = replace(STUCK, moments=few)
    axis = Axis("step", 0, 99)
    found = gap_by_column(thin, axis)
    assert np.isfinite(found).all() and len(set(found[:50])) == 1 and len(set(found[50:])) == 1
    stopped = gap_by_column(replace(thin, spans=(span(0, 59, True, 60),)), axis)
    assert np.isfinite(stopped[:60]).all() and np.isnan(stopped[60:]).all()


def test_moved_and_stood_still_are_told_apart() -> None:
    moved, still = moved_lanes(STUCK, Axis("step", 0, 99))
    assert moved[:40].all() and not moved[40:].any()
    assert still[40:].all() and not still[:40].any()


# ---------------------------------------------------------------------------------------------------------- pictures


def test_what_happened_to_a_layer_is_numbered() -> None:
    assert [each.what for each in to_number(LIFE, STUCK)] == ["eval", "load"]
    assert [each.what for each in to_number(LIFE, layer("stem.bn"))] == ["load"]
    often = tuple(Happening("eval", k, k, ("layer1.bn1",), HERE) for k in range(50))
    assert [each.step for each in to_number(replace(LIFE, happenings=often), STUCK)] == [49]


def test_a_timeline_shows_modes_moves_and_the_gap() -> None:
    drawn = timeline(LIFE, STUCK, "x")
    for word in ("in training mode", "in eval mode", "statistics moved", "running mean off by,", "optimiser step"):
        assert f">{word}</text>" in drawn.picture.svg
    assert "run again in backward" not in drawn.picture.svg
    again = replace(STUCK, spans=(*STUCK.spans, replace(STUCK.spans[0], in_backward=True)))
    assert "run again in backward" in timeline(LIFE, again, "x").picture.svg


def test_a_map_names_the_layers_that_findings_are_about_first() -> None:
    lives = replace(LIFE, layers=tuple(layer(f"l{k}") for k in range(150)))
    drawn = distance_map(lives, {"l77": "hazard"}, "x")
    assert drawn is not None
    assert "l77 !</text>" in drawn.svg and drawn.caption.startswith("150 layers over steps 0 to 100")
    assert distance_map(replace(LIFE, layers=()), {}, "x") is None


def test_nan_is_drawn_as_nan() -> None:
    bad = {**STUCK.moments, "mean_before": np.where(np.arange(STEPS)[:, None] > 50, np.nan, 0.5) * np.ones((1, 4))}
    broken = replace(STUCK, moments=bad)
    drawn = distance_map(replace(LIFE, layers=(broken,)), {}, "x")
    assert drawn is not None and "NaN or Inf" in drawn.svg
    assert "NaN or Inf" in timeline(LIFE, broken, "x").picture.svg


def test_a_line_of_the_program_is_said_with_its_function() -> None:
    line = line_of(LIFE.happenings[0], "")
    assert (line.said, line.where, line.code) == (
        "eval() was called on layer1 in layer1.bn1", "engine.py:88 in evaluate()", "model.eval()"
    )  # fmt: skip
    assert place_of(replace(HERE, function="<module>")) == "engine.py:88"


@pytest.mark.parametrize(
    ("happening", "said"),
    [
        (Happening("nonfinite", 0, 0, ("a",), detail={"in": "input", "born": False}),
         "the first NaN or Inf (in its input) in a"),
        (Happening("nonfinite", 0, 0, ("a",), detail={"in": "state", "born": True}),
         "the first NaN or Inf (in its state) in a, although its input was finite"),
        (Happening("load", 0, 0, detail={"module": "Net", "missing": ["a", "b", "c", "d"], "unexpected": []}),
         "state was loaded on Net (missing 4 keys)"),
        (Happening("jump", 0, 0, ("a",), detail={"quantity": "running_mean", "largest": 0.5, "by": ""}),
         "running statistics changed without a forward in a (quantity running_mean, largest 0.5)"),
    ],
)  # fmt: skip
def test_what_happened_is_said_in_words(happening: Happening, said: str) -> None:
    assert line_of(happening, "").said == said


def test_of_a_span_that_moved_in_part_the_kept_forwards_say_when() -> None:
    """The layer stands still from step 40 on, and one span counted all of it."""
    moved, still = moved_lanes(replace(STUCK, spans=(span(0, 99, True, 40),)), Axis("step", 0, 99))
    assert moved[:40].all() and not moved[40:].any() and still[40:].all()


# -------------------------------------------------------------------------------------------------------------- page


def test_the_page_leads_from_the_answer_to_the_layer_s_time(html: str) -> None:
    tags = Tags(html)
    assert tags.open == []
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for _, a in tags.seen if str(a.get("href", "")).startswith("#")} <= set(ids)
    words = ("<h1", "stopped learning its statistics at step 40.</h1>", "What to do", "Map of all layers",
             'id="layer-1"', 'id="layers"', 'id="gate"')  # fmt: skip
    places = [html.index(word) for word in words]
    assert places == sorted(places)
    assert "made at model.py:12 in __init__()" in html and "called from model.py:40 in forward()" in html
    assert "What happened between the forwards: 3" in html


def test_the_page_loads_and_runs_nothing(html: str) -> None:
    tags = Tags(html)
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "img", "iframe", "object", "image"}
    assert not any(name.startswith("on") or name in ("src", "style") for _, found in tags.seen for name in found)
    assert "bncheck repro" not in html and "Scenarios × targets" not in html


def test_layers_can_be_filtered_and_those_that_are_fine_are_muted(tmp_path: Path) -> None:
    write_answered(tmp_path, many(20, "agrees"))
    shown = page(results(many(20, "agrees")), tmp_path, Gallery(results(), tmp_path))
    assert re.findall(r'id="show-(\w+)"', shown) == ["all", "hazard", "agrees", "silent"]
    assert shown.count('class="row has-agrees fine"') == 17 and shown.count('class="row has-hazard"') == 1


def test_each_cause_s_first_layer_is_drawn_before_the_second_of_any() -> None:
    many_leaks = tuple(replace(LEAK, layer=f"a{k}", title=f"leak in a{k}") for k in range(9))
    other = replace(LEAK, code="BN301", cause="poisoned-state", kind="defect", layer="b", title="NaN in b")
    told = arrange(results(findings=(*many_leaks, other)), ANSWER)
    lives = (replace(LIFE, layers=tuple(layer(name) for name in (*(f"a{k}" for k in range(9)), "b"))),)
    assert [found.name for _, found in concerned(told, lives)] == ["b", "a0", "a1", "a2", "a3", "a4"]


def test_processes_are_told_apart(tmp_path: Path) -> None:
    write_answered(tmp_path)
    for rank in (0, 1):
        write_life(replace(LIFE, rank=rank, world=2, pid=100 + rank), tmp_path)
    shown = page(results(), tmp_path, Gallery(results(), tmp_path))
    assert "rank 0 of 2" in shown and "rank 1 of 2" in shown


def hostile_life() -> Life:
    names = tuple(replace(each, name=each.name + EVIL, kind=EVIL, names=(EVIL,)) for each in LIFE.layers)
    happened = (Happening("load", 0, 0, (names[1].name,), replace(HERE, function=EVIL, text=EVIL), {EVIL: EVIL}),)
    return replace(LIFE, program=EVIL, framework="torch", layers=names, happenings=happened, remarks=(EVIL,))


def test_hostile_names_stay_texts(tmp_path: Path) -> None:
    finding = replace(LEAK, layer=LEAK.layer + EVIL, title=EVIL, advice=EVIL, evidence={EVIL: EVIL}, link=EVIL)
    answer = replace(ANSWER, headline=EVIL, subject=EVIL, columns=(EVIL,) * 4, notes=(EVIL,),
                     rows=tuple(replace(row, layer=EVIL, cells=(EVIL,) * 4) for row in ANSWER.rows))  # fmt: skip
    write_answered(tmp_path, answer, (finding,))
    write_life(hostile_life(), tmp_path)
    shown = page(results(answer, (finding,)), tmp_path, Gallery(results(), tmp_path))
    tags = Tags(shown)
    assert tags.open == [] and not {tag for tag, _ in tags.seen} & {"script", "img"}
    assert not any(name.startswith("on") for _, found in tags.seen for name in found)


# -------------------------------------------------------------------------------------------------------- there, back


def same(a: Life, b: Life) -> bool:
    plain_a, plain_b = (replace(x, layers=(), happenings=(), command=()) for x in (a, b))
    return plain_a == plain_b and all(
        replace(one, moments={}) == replace(two, moments={})
        and all(np.array_equal(one.moments[key], two.moments[key], equal_nan=True) for key in one.moments)
        for one, two in zip(a.layers, b.layers, strict=True)
    )


def test_a_life_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = replace(LIFE, code=0, remarks=("torch.jit.script was not seen",))
    write_life(written, tmp_path)
    (found,) = read_lives(tmp_path)
    assert same(found, written)
    assert [(each.what, each.layers, each.step) for each in found.happenings] == [
        ("load", (), 20), ("eval", ("layer1.bn1",), 40), ("end", (), 100)
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------- large and small


def large(layers: int, steps: int, kept: int) -> Life:
    """As the recorder leaves it: ``kept`` forwards of each layer whole, the others counted in spans."""
    step = np.unique(np.linspace(0, steps - 1, kept).astype(int))
    noise = np.random.default_rng(0)
    arrays: dict[str, Any] = {"index": step, "step": step, "training": np.ones(len(step)), "n": np.full(len(step), 99)}
    for name in ("input_mean", "input_var", "mean_before", "mean_after", "var_before", "var_after"):
        arrays[name] = np.abs(noise.normal(size=(len(step), 64)))
    modes = [span(first, first + 99, first % 200 == 0, 100) for first in range(0, steps, 100)]
    return Life("train.py", "torch", "2.13.0", tuple(
        layer(f"blocks.{k}.bn", channels=64, moments=arrays, spans=tuple(modes)) for k in range(layers)
    ), steps=steps, forwards=steps * layers)  # fmt: skip


def test_ten_thousand_steps_of_a_hundred_layers_are_drawn_in_time(tmp_path: Path) -> None:
    rows = many(100)
    finding = replace(LEAK, layer="blocks.7.bn")
    write_answered(tmp_path, rows, (finding,))
    write_life(large(100, 10_000, 300), tmp_path)
    began = time.process_time()
    render(tmp_path, ("html",))
    seconds = time.process_time() - began
    size = (tmp_path / "index.html").stat().st_size
    assert seconds < 5 and size < 2_000_000, (seconds, size)


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, run: Path, scheme: str, width: int) -> None:  # noqa: F811
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    render(run, ("html",))
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True)
    tab, requests = context.new_page(), []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto((run / "index.html").as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert len(requests) == 1
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.run(tab)
    assert found.violations_count == 0, found.generate_report()


# --------------------------------------------------------------------------------------------------- lines of the user


def test_the_line_that_a_finding_names_is_shown_where_the_code_is_not(tmp_path: Path) -> None:
    code = tmp_path / "engine.py"
    code.write_text("\n" * 87 + "    model.eval()  # nobody undoes this\n")
    here_and_now = replace(HERE, file=str(code), text="")
    life = replace(LIFE, happenings=(replace(LIFE.happenings[0], where=here_and_now),))
    run = tmp_path / "run"
    write_answered(run)
    write_life(life, run)
    write_lines(run, look_up([life]))
    code.unlink()
    shown = page(results(), run, Gallery(results(), run))
    assert shown.count("<code>model.eval()  # nobody undoes this</code>".replace("  #", " #")) == 2


def test_a_report_opens_no_file_that_a_run_folder_names(tmp_path: Path) -> None:
    secret = tmp_path / "secret.py"
    secret.write_text("password = 1\n" * 100)
    write_answered(tmp_path / "run")
    write_life(replace(LIFE, happenings=(replace(LIFE.happenings[0], where=replace(HERE, file=str(secret))),)),
               tmp_path / "run")  # fmt: skip
    assert "password" not in page(results(), tmp_path / "run", Gallery(results(), tmp_path / "run"))


@pytest.mark.parametrize("content", ["{}", "[[1, 2, 3]]", '[["a", "b", "c"], 7]', '"text"'])
def test_lines_that_were_edited_are_left_out(tmp_path: Path, content: str) -> None:
    write_life(LIFE, tmp_path)
    (tmp_path / "watched" / "lines.json").write_text(content)
    assert [each.where.text for life in read_lines(tmp_path, read_lives(tmp_path)) for each in life.happenings
            if each.where is not None] == ["", ""]  # fmt: skip


def test_what_is_no_python_file_is_not_read(tmp_path: Path) -> None:
    for name in ("notes.txt", "missing.py"):
        where = replace(HERE, file=str(tmp_path / name), line=1, text="")
        (tmp_path / "notes.txt").write_text("secret\n")
        (life,) = look_up([replace(LIFE, happenings=(Happening("eval", 0, 0, where=where),))])
        assert life.happenings[0].where == where
