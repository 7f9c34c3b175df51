"""Errors that are no framework's: whose each one is, what is said of it, and which exit code it makes.

A worker says of every error whose it is (``worker/blame.py``). Those of the user's file, of a file or package that does
not import, of a backend file and of bncheck itself are no findings: the cell was not carried out, and that is all that
is known about it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from bncheck.run_folder.results import OUR_ERRORS

if TYPE_CHECKING:
    from bncheck.finding import Finding
    from bncheck.run_folder.results import CellResult, Results

# Origin → kind of charge.
KINDS: Mapping[str, str] = {
    "subject": "subject-error",
    "backend": "subject-error",
    "import": "import-error",
    "bncheck": "adapter-error",
}
# Kind of charge → exit code: 2 a file of the user's is wrong, 3 something asked for could not be had or done.
EXITS: Mapping[str, int] = {
    "crashed": 3,
    "timeout": 3,
    "adapter-error": 3,
    "import-error": 3,
    "subject-error": 2,
}
REMEDIES: Mapping[str, str] = {
    "subject-error": "correct it and run again",
    "import-error": "install what is missing, or name the Python that has it",
    "adapter-error": "please report it, with the command and this line",
}
# How those begin that say what does not fit what.
OPENINGS = ("the input [", "the scenario's native.", "your backend file hands over ")
# Findings that name why a layer of the user's raises: then the error has its name.
NAMED = ("graph-retention", "in-place")


def own(cell: CellResult) -> bool:
    """True if the cell failed, and not by the framework."""
    return cell.outcome == "raised" and cell.origin in KINDS


def sentence(cell: CellResult) -> str:
    """What happened, about the one whose error it is."""
    if cell.error_type in OUR_ERRORS or cell.error.startswith(OPENINGS):
        return cell.error
    who = {"subject": "your code", "backend": "your backend file", "import": "your code"}.get(cell.origin)
    if who is None:
        return f"bncheck itself went wrong, not {cell.target}: {cell.error_type}: {cell.error}"
    return f"{who} raises {cell.error_type}: {cell.error}"


def unnamed(results: Results) -> Iterator[CellResult]:
    """Cells of the scenarios that were asked for whose error stands in no finding and was not expected."""
    probes = {scenario.name for scenario in results.scenarios if scenario.probe}
    for cell in results.cells:
        if own(cell) and cell.scenario not in probes and not named(cell, results) and not expected(cell, results):
            yield cell


def in_a_finding(cell: CellResult, results: Results) -> bool:
    """True if some finding speaks of the error: then it is a difference, and not only a cell that was not played."""
    here = results.findings_at.get((cell.scenario, cell.case), ())
    return any(item.cause in (*NAMED, "refusal") and cell.target in item.targets for item in here)


def named(cell: CellResult, results: Results) -> bool:
    """A cause was found, or the same code of the user's runs on another target: then the two differ."""
    return any(
        cell.target in item.targets and (item.cause in NAMED or on_another_target(item, cell))
        for item in results.findings_at.get((cell.scenario, cell.case), ())
    )


def on_another_target(finding: Finding, cell: CellResult) -> bool:
    return finding.cause == "refusal" and not finding.departs and finding.evidence.get("error") == cell.error


def wanted_there(cell: CellResult, between: Sequence[str], results: Results) -> bool:
    """Whether the cell is one of those targets', or shows the very error that one of them shows."""
    same = [results.cell_at.get((cell.scenario, cell.case, target)) for target in between]
    return cell.target in between or any(one is not None and one.error == cell.error for one in same)


def expected(cell: CellResult, results: Results) -> bool:
    """The scenario is there to show this refusal."""
    case = results.case_at.get((cell.scenario, cell.case))
    matrix = case.matrix if case is not None else {}
    return any(
        item.met is True
        and "refusal" in item.causes
        and wanted_there(cell, item.between, results)
        and all(matrix.get(key) == value for key, value in item.when.items())
        for scenario in results.scenarios
        if scenario.name == cell.scenario
        for item in scenario.expectations
    )
