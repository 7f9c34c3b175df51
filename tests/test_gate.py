"""The verdict: levels, waivers, baseline, exit code; and gate.json."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from literal_run import finding, results

from bncheck.commands.gating import LEVELS
from bncheck.errors import RunFolderError
from bncheck.gate.bar import FAIL_ON, Bar, between, hold, read_verdict, write_verdict
from bncheck.gate.baseline import record
from bncheck.gate.charge import charges
from bncheck.gate.shortfall import Shortfall
from bncheck.gate.waiver import Waiver
from bncheck.run_folder.results import CellResult, Results

TODAY = date(2026, 5, 1)
WAIVER = Waiver("update-phase", "accepted", date(2026, 12, 31), where="w.toml:1")
SIDES = (("reference", "torch"), ("mxnet",))


def run_of(*kinds: str) -> Results:
    found = tuple(
        finding(kind=kind, cause=cause, sides=SIDES)
        for kind, cause in zip(kinds, ("update-phase", "eps"), strict=False)
    )
    return results(findings=found, drifts=())


@pytest.mark.parametrize(
    ("level", "failing"),
    [
        ("defect", {"defect"}),
        ("hazard", {"defect", "hazard"}),
        ("convention", {"defect", "hazard", "unexplained", "convention"}),
        ("drift", {"defect", "hazard", "unexplained", "convention"}),
        ("never", set()),
    ],
)
def test_the_level_decides_which_kinds_fail(level: str, failing: set[str]) -> None:
    for kind in ("defect", "hazard", "unexplained", "convention"):
        assert hold(run_of(kind), Bar(level), TODAY).exit_code == int(kind in failing), kind


def test_the_levels_of_the_command_line_are_those_of_the_gate() -> None:
    assert tuple(FAIL_ON) == LEVELS


def test_a_crash_is_exit_code_3_at_every_level_unless_it_is_known() -> None:
    cell = CellResult("all-ones", "forward", "mxnet", "mxnet", "crashed", error="killed")
    run = results(cells=(cell,), findings=(), drifts=())
    assert [hold(run, Bar(level), TODAY).exit_code for level in FAIL_ON] == [3] * 5
    assert hold(run, Bar(baseline=record(charges(run))), TODAY).exit_code == 0


@pytest.mark.parametrize(
    ("origins", "missed", "code"),
    [
        (("subject",), True, 2),
        (("subject", "bncheck"), True, 3),
        (("bncheck",), False, 3),
        ((), True, 3),
        ((), False, 0),
    ],
)
def test_a_wrong_file_comes_before_what_did_not_come_and_after_a_crash(
    origins: tuple[str, ...], missed: bool, code: int
) -> None:
    cells = tuple(
        CellResult("all-ones", "forward", target, target, "raised", 0, "ValueError", origin, origin=origin)
        for target, origin in zip(("mxnet", "torch"), origins, strict=False)
    )
    lacking = (Shortfall("torch@cuda is unavailable: no GPU"),) if missed else ()
    assert hold(results(cells=cells, findings=(), drifts=()), Bar(), TODAY, lacking).exit_code == code


def test_a_baseline_leaves_what_is_new() -> None:
    known = record(charges(run_of("convention")))
    verdict = hold(run_of("convention", "convention"), Bar("convention", known), TODAY)
    assert [(item.charge.cause, item.standing, item.note) for item in verdict.judged] == [
        ("update-phase", "known", "in the baseline"),
        ("eps", "fails", "new"),
    ]
    assert verdict.exit_code == 1
    assert hold(run_of("convention"), Bar("convention", known), TODAY).exit_code == 0


def test_what_the_baseline_lists_and_nothing_shows_any_more_is_said() -> None:
    known = record(charges(run_of("convention", "convention")))
    verdict = hold(run_of("convention"), Bar("convention", known), TODAY)
    assert [entry.cause for entry in verdict.gone] == ["eps"]
    assert verdict.exit_code == 0


def test_a_waiver_takes_the_finding_out_until_it_expires() -> None:
    run = run_of("defect")
    waived = hold(run, Bar(waivers=(WAIVER,)), TODAY)
    assert (waived.exit_code, [item.standing for item in waived.judged]) == (0, ["waived"])
    late = hold(run, Bar(waivers=(WAIVER,)), date(2027, 1, 1))
    assert (late.exit_code, [item.standing for item in late.judged], late.expired) == (1, ["fails"], (WAIVER,))


def test_an_expired_waiver_fails_also_without_a_finding_and_an_unneeded_one_does_not() -> None:
    quiet = results(findings=(), drifts=())
    assert hold(quiet, Bar(waivers=(WAIVER,)), date(2027, 1, 1)).exit_code == 1
    assert hold(quiet, Bar("never", waivers=(WAIVER,)), date(2027, 1, 1)).exit_code == 0
    verdict = hold(quiet, Bar(waivers=(WAIVER,)), TODAY)
    assert (verdict.exit_code, verdict.unneeded) == (0, (WAIVER,))


def test_it_is_written_and_read_back(tmp_path: Path) -> None:
    run = run_of("defect", "convention")
    bar = Bar("convention", record(charges(run_of("defect"))), (WAIVER, replace(WAIVER, cause="eps")))
    verdict = hold(run, bar, TODAY)
    write_verdict(verdict, tmp_path)
    assert read_verdict(tmp_path, run) == verdict


def test_a_run_folder_without_one_is_judged_by_the_defaults(tmp_path: Path) -> None:
    assert read_verdict(tmp_path, run_of("convention")).exit_code == 0
    assert read_verdict(tmp_path, run_of("defect")).exit_code == 1


@pytest.mark.parametrize("text", ["", "[]", '{"judged": 3}', '{"judged": [{"charge": {}}]}'])
def test_a_damaged_one_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "gate.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"gate\.json is damaged"):
        read_verdict(tmp_path, run_of("defect"))


def test_a_charge_between_groups_is_not_about_two_members_of_one() -> None:
    (charge,) = charges(run_of("convention"))
    assert between(charge, "torch", "mxnet")
    assert between(charge, "mxnet", "reference")
    assert not between(charge, "reference", "torch")
