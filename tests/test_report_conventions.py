"""The table of conventions: a value's evidence below it where it is asked for, and where its documentation stands."""

from __future__ import annotations

from dataclasses import replace

import literal_run
from rich.console import Console

from bncheck.convention import Convention, Facet
from bncheck.report.conventions import evidence, links, table
from bncheck.run_folder.results import TargetResult

LINK = "https://example.org/batch_norm"
FLAT = Convention(
    "mine", "2-D", {"variance_divisor": Facet("n", residual=1e-8, runner_up="n-1", runner_up_residual=0.05, link=LINK)}
)
DEEP = Convention(
    "mine", "4-D", {"variance_divisor": Facet("n", residual=3e-7, runner_up="n-1", runner_up_residual=0.02, link=LINK)}
)
READ = Convention("mine", "", {"counter": Facet("none")})
HIDDEN = Convention("mine", "", {"counter": Facet(None, identifiable=False, residual=0.5)})


def test_the_evidence_is_that_of_the_path_that_tells_least() -> None:
    assert evidence({"2-D": FLAT, "4-D": DEEP}, "variance_divisor") == "residual 3.0e-07; n-1: 2.0e-02"


def test_what_was_read_off_or_is_unknown_has_no_evidence() -> None:
    assert evidence({"": READ}, "counter") == ""
    assert evidence({"": HIDDEN}, "counter") == ""
    assert evidence({"": READ}, "eps") == ""


def test_each_link_stands_once() -> None:
    found = replace(literal_run.results(), conventions=(FLAT, DEEP, READ))
    assert links(found) == [f"mine: {LINK}"]


def test_residuals_stand_below_the_values_only_where_they_are_asked_for() -> None:
    targets = (TargetResult("mine", "mine", "mine", "", "1.2", "cpu"),)
    found = replace(literal_run.results(), conventions=(FLAT,), targets=targets)
    plain, told = (drawn(found, residuals) for residuals in (False, True))
    assert "variance_divisor" in plain
    assert "residual" not in plain
    assert "residual 1.0e-08" in told


def drawn(found: object, residuals: bool) -> str:
    console = Console(width=100, record=True, file=None)
    with console.capture() as capture:
        console.print(table(found, 100, residuals))  # type: ignore[arg-type]
    return capture.get()
