"""The page: what a run folder holds is text and nothing else; it needs no network, script or mouse."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import literal_run
import numpy as np
import pytest
from test_report_terminal import nan_drift, poisoned

from bncheck.gate.bar import Bar, hold, write_verdict
from bncheck.gate.baseline import record
from bncheck.gate.charge import charges
from bncheck.gate.waiver import Waiver
from bncheck.report import formats, render
from bncheck.report.gallery import Gallery
from bncheck.report.html import convention_table, page
from bncheck.report.leads import command_of, commands_of
from bncheck.report.pages import safe_link
from bncheck.report.places import stretches
from bncheck.repro.scene import choose_finding
from bncheck.run_folder.results import Results, plain, write_results

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"
VOID = {"meta", "img", "br", "link", "input", "hr"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    literal_run.write_run(folder)
    return folder


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return page(literal_run.results(), run)


class Tags(HTMLParser):
    """All tags with their attributes; fails where one is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open[-3:]}"
        self.open.pop()


def test_every_tag_is_closed_and_every_id_unique(html: str) -> None:
    tags = Tags(html)
    assert tags.open == []
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for _, a in tags.seen if str(a.get("href", "")).startswith("#")}
    assert targets <= set(ids)


def test_nothing_is_loaded_or_run(html: str) -> None:
    tags = Tags(html)
    names = {tag for tag, _ in tags.seen}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image"}
    for tag, attributes in tags.seen:
        assert not any(name.startswith("on") or name in ("src", "style", "srcset") for name in attributes), tag
        address = str(attributes.get("href") or "#")
        assert address.startswith("#") or (tag == "a" and address.startswith("https://"))
    assert "@import" not in html and "url(http" not in html
    assert "default-src 'none'" in html


def test_the_verdict_comes_first(html: str) -> None:
    body = html[html.index("<body>") :]
    words = [">fails</span>", "3 of 6 cells differ from reference", "mxnet stores NaN in running_var",
             "accounts for 100.0 %", "no CUDA device was found", "Scenarios × targets</h2>", "Findings</h2>",
             "What to do",
             '<svg role="img"', "bncheck run one-value -t mxnet",
             "What fails, and what is accepted</h2>", "What the scenarios expected", "Measured conventions",
             "Every case", "0.90099 ± 0.20569", "Environments</h2>"]  # fmt: skip
    places = [body.index(word) for word in words]
    assert places == sorted(places)


def test_every_cell_can_be_reached(html: str) -> None:
    matrix = html[html.index('id="matrix"') : html.index('id="findings"')]
    links = re.findall(r'href="#(case-\d+(?:-\d+)?)"', matrix)
    assert len(links) == len(set(links)) == 3 * 3 + 3, "three targets beside the reference, and the cases themselves"
    assert all(f'id="{link}"' in html for link in links)


def test_what_the_others_are_compared_with_has_no_column_and_is_spoken_of(tmp_path: Path) -> None:
    run = literal_run.results(drifts=(nan_drift("torch", 7, 7, "agrees"),), findings=(poisoned("reference", "torch"),))
    shown = page(run, tmp_path)
    matrix = shown[shown.index('<table class="matrix"') : shown.index('id="findings"')]
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', matrix)
    assert heads == ["scenario and case", "torch 2.13.0", "mxnet 1.9.1", "torch@cuda"]
    (itself,) = re.findall(r"reference itself: <span[^>]*>(.*?)</span> in <a[^>]*>(.*?)</a>", matrix)
    assert itself == ("! hazard", "all-ones · forward")


def test_one_target_is_not_said_to_be_compared(tmp_path: Path) -> None:
    """The page said that each cell compares a target with torch, where torch alone was asked for."""
    run = literal_run.results()
    alone = replace(run, targets=run.targets[:1])
    assert "Each cell compares a target with" in page(run, tmp_path)
    shown = page(alone, tmp_path)
    assert "There is one target, and nothing to compare it with." in shown
    assert "Each cell compares" not in shown


def test_a_finding_names_the_commands_that_lead_on() -> None:
    base = literal_run.results()
    first, second = literal_run.finding(), literal_run.finding(case="forward-backward")
    probe = literal_run.finding(scenario="probe", case="base")
    results = replace(base, findings=(probe, first, second))
    results = replace(results, scenarios=(*base.scenarios, replace(base.scenarios[1], name="probe", probe=True)))
    assert commands_of(results, first, "run-1")[1:] == (
        "bncheck repro run-1 BN103", "bncheck plot run-1 BN103 -o BN103.png", "bncheck explain BN103"
    )  # fmt: skip
    assert commands_of(results, second, "run-1")[1] == "bncheck repro run-1 'BN103#2'"
    assert commands_of(results, probe, "run-1")[1] == "bncheck repro run-1 'BN103#3'"
    for finding, text in ((first, "BN103"), (second, "BN103#2"), (probe, "BN103#3")):
        assert choose_finding(results, text) is finding


def test_the_documentation_of_a_rule_that_is_kept_is_linked(tmp_path: Path) -> None:
    shown = page(literal_run.results(), tmp_path)
    assert "as documented" in shown.replace("as <a", "as documented<a")


TODAY = date(2026, 1, 1)


def gated(run: Path, **bar: Any) -> str:
    """The page of the literal run held against this bar."""
    results = literal_run.results()
    write_verdict(hold(results, Bar(**bar), TODAY), run)
    shown = page(results, run, Gallery(results, run, 0))
    return shown[shown.index('id="verdict"') :]


def gate_of(shown: str) -> str:
    return shown[shown.index('id="gate"') : shown.index('id="expectations"')]


def test_the_page_says_what_the_exit_code_said(tmp_path: Path) -> None:
    literal_run.write_run(tmp_path)
    failing = gated(tmp_path)
    assert "1 finding at or above --fail-on defect" in failing and "exit code 1" in failing
    assert "everything is new" in gate_of(failing) and "Fails: 1" in gate_of(failing)
    assert "Below the level: 1" in gate_of(failing)
    passing = gated(tmp_path, fail_on="never")
    assert ">passes</span>" in passing and "exit code 0" in passing


def test_the_page_shows_what_is_known_waived_expired_not_needed_and_gone(tmp_path: Path) -> None:
    literal_run.write_run(tmp_path)
    known = record(charges(literal_run.results()))
    lost = replace(known[0], scenario="all-ones", case="forward", cause="eps")
    waiver = Waiver("poisoned-state", "we never train on one value", date(2026, 6, 1), where="pyproject.toml:7")
    late = Waiver("update-phase", "until mxnet answers", date(2025, 6, 1), where="pyproject.toml:12")
    idle = Waiver("averaging", "was so once", date(2026, 6, 1), where="pyproject.toml:17")
    shown = gated(tmp_path, fail_on="convention", baseline=(*known, lost), waivers=(waiver, late, idle))
    head, gate = shown[: shown.index('id="matrix"')], gate_of(shown)
    assert "known from the baseline" in head
    assert "waived until 2026-06-01: we never train on one value" in head
    assert "with a baseline" in head and "1 expired waiver" in head
    assert "the waiver of update-phase ended on 2025-06-01: until mxnet answers" in gate
    assert "nothing needs the waiver of averaging any more (it holds until 2026-06-01)" in gate
    assert "eps in all-ones · forward is in the baseline and no longer found" in gate
    assert "Waived: 1" in gate and "Known: 1" in gate and "Fails:" not in gate


def test_what_is_new_says_so_beside_its_finding(tmp_path: Path) -> None:
    literal_run.write_run(tmp_path)
    shown = gated(tmp_path, fail_on="convention", baseline=())
    assert shown[: shown.index('id="matrix"')].count('<span class="s-fails">new</span>') == 2


def test_where_values_stop_being_numbers_is_drawn(html: str) -> None:
    case = html[html.index('id="case-3"') : html.index('id="environments"')]
    assert re.search(r"<th scope=\"row\">mxnet</th><td>bn.running_var</td><td>step \d", case)


def test_stretches_of_bad_steps() -> None:
    assert stretches(np.array([False, True, True, False, True])) == ((1, 2), (4, 1))
    assert stretches(np.array([False, False])) == ()


def test_probes_stand_apart(tmp_path: Path) -> None:
    base = literal_run.results()
    scenarios = (base.scenarios[0], replace(base.scenarios[1], probe=True))
    shown = page(replace(base, scenarios=scenarios), tmp_path)
    assert shown.index("1 small case, played to measure") < shown.index('id="probes"') < shown.index('id="case-3"')


def test_a_convention_that_breaks_its_documentation_is_marked(html: str) -> None:
    rules = html[html.index('id="conventions"') : html.index('id="cases"')]
    assert "✗ documented:" in rules and "momentum=0.9" in rules and "not known" in rules


def test_layer_paths_with_equal_rules_share_a_column() -> None:
    convention = literal_run.results().conventions[1]
    other = replace(convention, path="2-D")
    assert convention_table([convention, other])["heads"] == [("torch", "4-D, 2-D")]
    assert len(convention_table([convention, replace(other, facets={})])["heads"]) == 2


def hostile(value: Any) -> Any:
    """Every text of a run, keys of mappings included, made hostile; words of the contract stay."""
    kept = {
        "ok",
        "raised",
        "unavailable",
        "agrees",
        "differs",
        "nonfinite",
        "refused",
        "defect",
        "convention",
        "float32",
        "1",
    }
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    if isinstance(value, str) and value and value not in kept and value not in ("nan", "inf", "-inf"):
        return value + EVIL
    return value


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    from pydantic import TypeAdapter

    value = hostile(plain(literal_run.results()))
    for finding in value["findings"]:
        finding["evidence"] = {EVIL: EVIL}
        finding["not_identifiable"] = {EVIL: EVIL}
        finding["link"] = "javascript:alert(1)"
    value["targets"][0]["environment"] = {EVIL: {EVIL: [EVIL]}}
    value["scenarios"][0]["cases"][0]["matrix"] = {EVIL: EVIL}
    results = TypeAdapter(Results).validate_python(value)
    shown = page(results, tmp_path, Gallery(results, tmp_path, 0))
    tags = Tags(shown)
    assert not {tag for tag, _ in tags.seen} & {"script", "img"}
    assert not any(name.startswith("on") for _, attributes in tags.seen for name in attributes)
    assert "javascript:" not in shown and "{{7*7}}" in shown


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "data:text/html,x", " https://x", "//x", "file:///etc/passwd", ""]
)
def test_only_web_pages_are_linked(address: str) -> None:
    assert safe_link(address) == ""


def test_hostile_names_in_pictures_stay_texts(tmp_path: Path) -> None:
    base = literal_run.results()
    targets = tuple(replace(t, version=EVIL) for t in base.targets)
    scenarios = tuple(replace(s, title=EVIL) for s in base.scenarios)
    literal_run.write_run(tmp_path, replace(base, targets=targets, scenarios=scenarios))
    tags = Tags(page(replace(base, targets=targets, scenarios=scenarios), tmp_path))
    assert "svg" in {tag for tag, _ in tags.seen} and not {tag for tag, _ in tags.seen} & {"script", "img"}


def test_the_command_of_a_finding_is_quoted() -> None:
    finding = literal_run.finding(targets=("keras[jax]", "a; rm -rf x"), scenario="s")
    assert command_of(literal_run.results(), finding) == "bncheck run s -t 'keras[jax]' -t 'a; rm -rf x' -t reference"


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    assert "Nothing was run." in page(Results("0.1.0", "bncheck run", "", (), (), ()), tmp_path)


def test_a_thousand_cells_stay_below_ten_megabytes(tmp_path: Path) -> None:
    base = literal_run.results()
    scenario, case = base.scenarios[0], base.scenarios[0].cases[0]
    cases = tuple(replace(case, name=f"c{n}") for n in range(333))
    cells = tuple(replace(cell, case=f"c{n}") for n in range(333) for cell in base.cells[:3])
    drifts = tuple(replace(d, case=f"c{n}", quantity=f"{d.quantity}{k}") for n in range(333) for d in base.drifts[:6]
                   for k in range(3))  # fmt: skip
    findings = tuple(literal_run.finding(case=f"c{n}") for n in range(333))
    many = replace(base, scenarios=(replace(scenario, cases=cases),), cells=cells, drifts=drifts, findings=findings)
    shown = page(many, tmp_path)
    assert len(shown.encode()) < 10e6 and shown.count('<article id="case-') == 333


def test_all_formats_are_found_and_written(run: Path) -> None:
    assert list(formats())[:3] == ["csv", "plots", "html"]
    said: list[str] = []
    written = render(run, ("html", "csv"), said.append)
    assert [path.name for path in written] == ["drifts.csv", "findings.csv", "index.html"]
    assert said == ["writing csv", "writing html"]
    assert (run / "index.html").stat().st_size < 1_000_000


# ------------------------------------------------------------------------------------------------ a real browser

CHROMIUM = os.environ.get("BNCHECK_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; install the package chromium-headless-shell")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        shown = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield shown
        shown.close()


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_requested(browser: Any, run: Path, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    render(run, ("html",))
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True)
    tab, requests, said = context.new_page(), [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.goto((run / "index.html").as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert len(requests) == 1 and said == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.run(tab)
    assert found.violations_count == 0, found.generate_report()
    context.close()


@pytest.mark.browser
@needs_browser
def test_what_differs_is_seen_on_a_narrow_screen(browser: Any, run: Path, tmp_path: Path) -> None:
    base = literal_run.results()
    three = replace(base, targets=base.targets[:3])
    (tmp_path / "index.html").write_text(page(three, run), encoding="utf-8")
    context = browser.new_context(viewport={"width": 400, "height": 800})
    tab = context.new_page()
    tab.goto((tmp_path / "index.html").as_uri())
    box = tab.locator("#matrix td.w-convention").first.bounding_box()
    assert box["x"] > 0 and box["x"] + box["width"] <= 400, "mxnet, the last column"
    context.close()


@pytest.mark.browser
@needs_browser
def test_pictures_keep_their_colours_under_the_strictest_policy(browser: Any, run: Path, tmp_path: Path) -> None:
    shown = page(literal_run.results(), run).replace("style-src 'unsafe-inline'", "style-src 'none'")
    (tmp_path / "strict.html").write_text(shown, encoding="utf-8")
    context = browser.new_context(java_script_enabled=True)
    tab = context.new_page()
    tab.goto((tmp_path / "strict.html").as_uri())
    colour = "getComputedStyle(document.querySelector('[data-stroke=s1]')).stroke"
    assert tab.evaluate(colour) == "rgb(0, 114, 178)"
    fill = "getComputedStyle(document.querySelector('figure svg path')).fill"
    assert tab.evaluate(fill) == "none"
    context.close()


@pytest.fixture
def served(run: Path) -> Iterator[str]:
    """The page from a web server whose own policy is stricter than the page's: styles and nothing else."""

    class Strict(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'")
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Strict, directory=str(run))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()


@pytest.mark.browser
@needs_browser
def test_filter_and_order_work_without_scripts_under_a_strict_policy(browser: Any, run: Path, served: str) -> None:
    base = literal_run.results()
    more = tuple(replace(base.scenarios[0].cases[1], name=f"f{k}", label=f"more {k}") for k in range(3))
    scenario = replace(base.scenarios[0], cases=(base.scenarios[0].cases[1], *more, base.scenarios[0].cases[0]))
    cells = tuple(replace(c, case=m.name) for m in more for c in base.cells if c.case == "forward-backward")
    drifts = tuple(replace(d, case=m.name) for m in more for d in base.drifts if d.case == "forward-backward")
    results = replace(base, scenarios=(scenario, base.scenarios[1]), cells=base.cells + cells,
                      drifts=base.drifts + drifts)  # fmt: skip
    (run / "index.html").write_text(page(results, run, Gallery(results, run, 0)), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    tab, said = context.new_page(), []
    tab.on("console", lambda message: said.append(message.text))
    tab.goto(served)
    rows = tab.locator("#matrix tbody tr:visible")
    cases = tab.locator("#cases article.case:visible")
    assert (rows.count(), cases.count(), said) == (6, 6, [])
    tab.get_by_label("not agreeing 2").check()
    assert (rows.count(), cases.count()) == (2, 2)
    tab.get_by_label("NaN 1").check()
    assert rows.all_inner_texts()[0].startswith("one-value")
    tab.get_by_label("all 6").check()

    def order() -> list[str]:
        found = [(row.bounding_box()["y"], row.inner_text().split("\t")[0].split("\n")[0]) for row in rows.all()]
        return [name for _, name in sorted(found)]

    assert order()[0].startswith("all-ones forward + backward")
    tab.get_by_label("gravest first").check()
    assert order()[0].startswith("one-value") and order()[1].startswith("all-ones forward")
    tab.get_by_label("largest first").check()
    assert [name.split()[0] for name in order()[:2]] == ["one-value", "all-ones"]
    # A link to a case that the filter hides still leads there.
    tab.get_by_label("NaN 1").check()
    tab.goto(served + "#case-1")
    tab.get_by_label("NaN 1").check()
    assert tab.locator("#case-1").is_visible() and not tab.locator("#case-2").is_visible()
    context.close()


@pytest.mark.browser
@needs_browser
def test_the_keyboard_filters(browser: Any, run: Path) -> None:
    base = literal_run.results()
    cases = tuple(replace(base.scenarios[0].cases[1], name=f"f{k}") for k in range(4))
    cells = tuple(replace(c, case=m.name) for m in cases for c in base.cells if c.case == "forward-backward")
    results = replace(base, scenarios=(replace(base.scenarios[0], cases=cases), base.scenarios[1]), drifts=(),
                      cells=(*cells, *(c for c in base.cells if c.scenario == "one-value")), findings=())  # fmt: skip
    (run / "index.html").write_text(page(results, run, Gallery(results, run, 0)), encoding="utf-8")
    context = browser.new_context()
    tab = context.new_page()
    tab.goto((run / "index.html").as_uri())
    tab.locator("#show-all").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#show-off").is_checked()
    assert tab.locator("#matrix tbody tr:visible").count() == 1
    context.close()


@pytest.mark.browser
@needs_browser
def test_the_keyboard_reaches_the_verdict_first(browser: Any, run: Path) -> None:
    render(run, ("html",))
    context = browser.new_context()
    tab = context.new_page()
    tab.goto((run / "index.html").as_uri())
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    context.close()


def test_a_page_is_replaced_whole(tmp_path: Path) -> None:
    write_results(literal_run.results(), tmp_path)
    (tmp_path / "index.html").write_text("old")
    render(tmp_path, ("html",))
    assert (tmp_path / "index.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.glob("*.part")] == []
