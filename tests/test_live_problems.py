"""The table of docs/live-problems.md: every figure in it is one that the findings give when the scenario is run.

A figure counts as given when a number in the findings of that cause (their sentences and evidence) rounds to it, to the
digits that the table prints. Rows on torch and mxnet are run always, the others with ``-m slow``.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from at_the_prompt import here
from conftest import FAMILIES, PROGRAMS

from bncheck.diagnosis.audit import audit
from bncheck.environments.backend_file import find_backends
from bncheck.finding import Finding
from bncheck.run_folder.results import Results, read_results

PAGE = (Path(__file__).parent.parent / "docs" / "live-problems.md").read_text(encoding="utf-8")
BACKENDS = find_backends()
# No figures of a measurement: ranks, distributions of the input, versions of what is said, "n - 1".
NO_FIGURE = re.compile(r"\b\d-D\b|N\([^)]*\)|\bn [−-] 1\b|\bn = \d\b")
NUMBER = re.compile(r"(?<![\w.])[−-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*\w)")


@dataclass(frozen=True)
class Row:
    """One row: scenario, targets by name and version, cause, what is printed as evidence."""

    scenario: str
    targets: tuple[str, ...]
    cause: str
    evidence: str

    @property
    def figures(self) -> list[str]:
        return NUMBER.findall(NO_FIGURE.sub("", self.evidence))


def rows() -> list[Row]:
    section = PAGE.split("\n## ")[0]
    found = []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if not line.startswith("| `"):
            continue
        scenario, targets, cause, evidence = cells
        found.append(Row(scenario.strip("`"), tuple(names(targets)), cause.split("`")[1], evidence))
    return found


def names(text: str) -> list[str]:
    """torch 2.13.0, 1.13.1 → torch, torch==1.13.1: the version that a plain name takes is left out."""
    found: list[str] = []
    backend = ""
    for piece in text.split(", "):
        word, _, version = piece.rpartition(" ") if re.search(r"\d\.\d", piece) else (piece, "", "")
        if word in ("bfloat16", "float16"):
            continue
        backend = word or backend
        default = BACKENDS[backend.split("[")[0]].default_version
        found.append(backend if version in ("", default) else f"{backend}=={version}")
    return found


def value(text: str) -> float:
    return float(text.replace("−", "-"))


def rounds_to(measured: float, printed: str) -> bool:
    """Whether a measured number is the printed one, to the digits that are printed."""
    digits = re.sub(r"e.*|[−.-]", "", printed).lstrip("0") or "0"
    wanted = value(printed)
    if wanted == 0 or not math.isfinite(measured):
        return measured == wanted
    return math.isclose(
        measured, wanted, rel_tol=0, abs_tol=0.51 * 10.0 ** (math.floor(math.log10(abs(wanted))) + 1 - len(digits))
    )


def numbers_of(finding: Finding) -> list[float]:
    said = [value(text) for text in NUMBER.findall(finding.title)]
    return said + [float(item) for item in finding.evidence.values() if isinstance(item, int | float)]


def play(scenarios: tuple[str, ...], targets: tuple[str, ...], out: Path) -> Results:
    words = [word for target in ("reference", *targets) for word in ("-t", target)]
    done = here("run", *scenarios, *words, "--no-report", "--out", str(out), "--fail-on", "never")
    results = read_results(out)
    assert audit(results) == ()
    missing = [target for target in results.targets if target.status != "ok"]
    if missing:
        pytest.skip(f"{missing[0].name}: {missing[0].reason}")
    assert done.returncode == 0, done.stdout + done.stderr
    return results


def quick_run(row: Row) -> str:
    """The fixture that has played it; "" where it is too heavy for every test run."""
    if row.scenario in FAMILIES and set(row.targets) <= {"torch", "mxnet"}:
        return "family_run"
    return "export_run" if row.scenario in PROGRAMS and set(row.targets) <= {"torch", "torch[onnx]"} else ""


@functools.cache
def read_once(run: Path) -> Results:
    return read_results(run)


def marked(row: Row) -> object:
    name = f"{row.scenario}-{'+'.join(row.targets)}"
    return pytest.param(row, id=name, marks=[] if quick_run(row) else [pytest.mark.slow])


def test_the_table_is_read_as_it_is_meant() -> None:
    assert len(rows()) >= 19
    assert names("torch 2.13.0, 1.13.1, 1.1.0") == ["torch", "torch==1.13.1", "torch==1.1.0"]
    assert names("flax 0.12.12, flax[linen]") == ["flax", "flax[linen]"]
    assert names("torch 2.13.0, bfloat16") == ["torch"]
    assert Row("", (), "", "2-D: variance −6.6e4, not 0.94 (n − 1), N(10, 1)").figures == ["−6.6e4", "0.94"]


def test_the_quick_rows_are_played() -> None:
    assert len([row for row in rows() if quick_run(row)]) >= 16


def test_a_figure_is_compared_to_its_digits() -> None:
    assert rounds_to(5.689, "5.7") and not rounds_to(5.76, "5.7")
    assert rounds_to(-66123.0, "−6.6e4") and not rounds_to(-68000.0, "−6.6e4")
    assert rounds_to(0.0, "0") and not rounds_to(1e-9, "0")
    assert rounds_to(16.25, "16.25") and not rounds_to(16.27, "16.25")


@pytest.mark.parametrize("row", [marked(row) for row in rows()])
def test_the_findings_give_the_figures_of_the_table(row: Row, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if quick_run(row):
        results = read_once(request.getfixturevalue(quick_run(row)))
        missing = [target for target in results.targets if target.status != "ok" and target.name in row.targets]
        if missing:
            pytest.skip(f"{missing[0].name}: {missing[0].reason}")
    else:
        results = play((row.scenario,), row.targets, tmp_path / "run")
    found = [item for item in results.findings if (item.cause, item.scenario) == (row.cause, row.scenario)]
    found += [item for item in results.findings if item.cause == row.cause and not item.scenario]  # about a target
    named = {target for finding in found for target in finding.targets}
    assert set(row.targets) <= named, f"{row.cause} is named of {sorted(named)} only"
    given = sorted({number for finding in found for number in numbers_of(finding)})
    missing = [figure for figure in row.figures if not any(rounds_to(number, figure) for number in given)]
    assert missing == [], f"not among {given}"
