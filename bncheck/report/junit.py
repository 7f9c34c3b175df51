"""``junit.xml``: a test case per scenario case and pair of targets, for the dashboards of CI systems.

It says what the exit code said: only charges that fail the run are failures. Known, waived and lesser ones stand in
``system-out`` of the passing test case. A crashed or timed out cell is an error; a pair of which one side did not
run is skipped, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from bncheck.gate.bar import Judged, Verdict, between, read_verdict
from bncheck.gate.blamed import EXITS
from bncheck.report.answer_text import by_layer
from bncheck.report.gallery import Gallery
from bncheck.report.layers import Told, stopped, told_of
from bncheck.report.plain_text import kinded
from bncheck.report.standing import difference
from bncheck.report.xml_text import escape, quoteattr
from bncheck.run_folder.results import CRASHED, CaseResult, CellResult, Results, ScenarioResult
from bncheck.run_folder.whole import write_whole

NAME = "junit"
NOT_RUN = ("unavailable", "unsupported")
# XML 1.0 has no way to write these, not even as entities.
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    path = run_folder / "junit.xml"
    write_whole(path, document(results, read_verdict(run_folder, results), told_of(results, run_folder)))
    return [path]


def document(results: Results, verdict: Verdict, told: Told | None = None) -> str:
    """The whole file. Test case names are those of the run, so they stay the same from run to run."""
    if told is not None:
        suites = [suite(f"bncheck.{told.answer.verb}", list(of_layers(results, told, verdict)))]
    else:
        asked = [scenario for scenario in results.scenarios if not scenario.probe] or list(results.scenarios)
        suites = [suite(f"bncheck.{each.name}", list(of_scenario(results, each, verdict))) for each in asked]
    suites.append(suite("bncheck.gate", [*of_missed(verdict), *of_expectations(verdict), *of_waivers(verdict)]))
    body = "\n".join(text for text in suites if text)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="bncheck">\n{body}\n</testsuites>\n'


def suite(name: str, cases: list[str]) -> str:
    """The counts are those of the elements in it."""
    if not cases:
        return ""
    counts = " ".join(
        f'{word}="{sum(f"<{tag}" in case for case in cases)}"'
        for word, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
    )
    body = "\n".join(cases)
    return f'<testsuite name={attribute(name)} tests="{len(cases)}" {counts}>\n{body}\n</testsuite>'


def of_scenario(results: Results, scenario: ScenarioResult, verdict: Verdict) -> Iterator[str]:
    here: dict[str, list[Judged]] = {}
    for item in verdict.judged:
        if item.charge.scenario == scenario.name and item.charge.kind != "expectation":
            here.setdefault(item.charge.case, []).append(item)
    for case in scenario.cases:
        about = here.get(case.name, [])
        for a, b in combinations([target.name for target in results.targets], 2):
            yield of_pair(results, scenario, case, (a, b), [item for item in about if between(item.charge, a, b)])


def of_layers(results: Results, told: Told, verdict: Verdict) -> Iterator[str]:
    """A test case per layer of a user's thing, and one for what is about none of them."""
    for layer, items in by_layer(told, verdict):
        failing = [item for item in items if item.standing == "fails"]
        inner = failure(failing) if failing else ""
        others = [item for item in items if item.standing != "fails"]
        inner += f"<system-out>{text(chr(10).join(map(line, others)))}</system-out>" if others else ""
        yield test_case(f"bncheck.{told.answer.verb}", layer, inner)
    for cell in stopped(results):
        message = f"<error type={attribute(cell.outcome)} message={attribute(cell.error)}/>"
        yield test_case(f"bncheck.{told.answer.verb}", f"{told.answer.subject} on {cell.target}", message)


def of_pair(
    results: Results, scenario: ScenarioResult, case: CaseResult, pair: tuple[str, str], about: list[Judged]
) -> str:
    cells = [results.cell_at.get((scenario.name, case.name, target)) for target in pair]
    seconds = max((cell.seconds for cell in cells if cell is not None), default=0.0)
    inner = outcome(results, cells, pair, about)
    shown = [item for item in about if item.standing != "fails"]
    if shown:
        inner += f"<system-out>{text(chr(10).join(map(line, shown)))}</system-out>"
    name = f"{case.name}: {pair[0]} and {pair[1]}"
    return test_case(f"bncheck.{scenario.name}", name, inner, seconds)


def outcome(results: Results, cells: list[CellResult | None], pair: tuple[str, str], about: list[Judged]) -> str:
    """The element that says how it went; none for a pass."""
    for cell, target in zip(cells, pair, strict=True):
        if cell is None or cell.outcome in NOT_RUN:
            return f"<skipped message={attribute(why_not(results, cell, target))}/>"
    crashed = [item for item in about if item.charge.kind in EXITS and item.standing == "fails"]
    if crashed:
        message = "; ".join(item.charge.sentence for item in crashed)
        stacks = "\n".join(cell.error for cell in cells if cell is not None and cell.outcome in CRASHED)
        return f'<error type="{crashed[0].charge.kind}" message={attribute(message)}>{text(stacks)}</error>'
    failing = [item for item in about if item.standing == "fails"]
    if not failing:
        return ""
    drifts = [
        difference(drift, pair[1], results)
        for cell in cells[:1]
        if cell is not None
        for drift in results.drifts_between(cell.scenario, cell.case, *pair)
        if drift.relation != "agrees"
    ]
    return failure(failing, ["", *drifts])


def failure(failing: list[Judged], more: Sequence[str] = ()) -> str:
    """What fails, the first by its sentence, all of them line by line."""
    kind = ", ".join(dict.fromkeys(f"{item.charge.code} {item.charge.cause}".strip() for item in failing))
    sentences = "\n".join([*map(line, failing), *more])
    return (
        f"<failure type={attribute(kind)} message={attribute(failing[0].charge.sentence)}>{text(sentences)}</failure>"
    )


def why_not(results: Results, cell: CellResult | None, target: str) -> str:
    if cell is None:
        return f"{target} did not run this case"
    found = next((item for item in results.targets if item.name == target), None)
    why = cell.error or (found.reason if found else "")
    return f"{target} is {cell.outcome} here" + (f": {why}" if why else "")


def of_expectations(verdict: Verdict) -> Iterator[str]:
    """Expectations that did not come true, whether the gate let them pass, and those that could not be checked."""
    for item in verdict.judged:
        if item.charge.kind == "expectation":
            name = f"{item.charge.scenario}: {item.charge.sentence}"
            failed = f'<failure type="expectation" message={attribute(item.charge.sentence)}/>'
            passed = f"<system-out>{text(line(item))}</system-out>"
            skipped = f"<skipped message={attribute(f'not checked: {item.note}')}/>"
            inner = {"fails": failed, "unchecked": skipped}.get(item.standing, passed)
            yield test_case("bncheck.gate", name, inner)


def of_missed(verdict: Verdict) -> Iterator[str]:
    """What was asked for and did not come: an error, since nothing was found out about it."""
    for item in verdict.missed:
        message = item.sentence + (f" → {item.remedy}" if item.remedy else "")
        yield test_case("bncheck.gate", item.sentence, f'<error type="missing" message={attribute(message)}/>')


def of_waivers(verdict: Verdict) -> Iterator[str]:
    for waiver in verdict.expired if verdict.fail_on != "never" else ():
        message = f"{waiver.where}: the waiver of {waiver.label} expired on {waiver.expires}"
        yield test_case(
            "bncheck.gate", f"waiver of {waiver.label}", f'<failure type="waiver" message={attribute(message)}/>'
        )


def test_case(suite_name: str, name: str, inner: str = "", seconds: float = 0.0) -> str:
    head = f'<testcase classname={attribute(suite_name)} name={attribute(name)} time="{seconds:.3f}"'
    return f"{head}>{inner}</testcase>" if inner else f"{head}/>"


def line(item: Judged) -> str:
    charge = item.charge
    head = " ".join(filter(None, (charge.code, charge.cause)))
    note = f" [{item.standing}: {item.note}]" if item.note else ""
    share = "" if charge.explained is None else f" It explains {100 * charge.explained:.1f} % of the difference."
    return f"{head}{kinded(charge)}: {charge.sentence}{share}{note}"


def text(value: str) -> str:
    return escape(FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", value))


def attribute(value: str) -> str:
    """Quoted. Line ends become spaces: a parser would do so anyway."""
    return quoteattr(re.sub(r"\s+", " ", FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", value)).strip())
