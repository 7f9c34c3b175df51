"""The end of every verb on a subject: findings and an answer become a run folder, its reports and a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

from bncheck import __version__
from bncheck.finding import Finding
from bncheck.gate.bar import Bar, hold, write_verdict
from bncheck.gate.shortfall import Shortfall
from bncheck.run_folder.answer import Answer, write_answer
from bncheck.run_folder.folder import make_way
from bncheck.run_folder.results import (
    CaseResult,
    CellResult,
    Results,
    ScenarioResult,
    TargetResult,
    write_results,
)


def slug_of(text: str) -> str:
    """A name that is safe in a run folder, made of what somebody called their thing."""
    return re.sub(r"[^A-Za-z0-9_+=,@-]+", "-", text.rpartition("/")[2])[:80].strip("-") or "subject"


def results_of(
    answer: Answer,
    findings: Sequence[Finding],
    targets: Sequence[TargetResult],
    command: str,
    created: str,
    outcome: str = "ok",
    error: str = "",
) -> Results:
    """A run of one scenario, named after the verb, with one case, named after the subject."""
    case = slug_of(answer.subject)
    return Results(
        version=__version__,
        command=command,
        created=created,
        targets=tuple(targets),
        scenarios=(
            ScenarioResult(name=answer.verb, title=answer.headline, cases=(CaseResult(name=case, label=case),)),
        ),
        cells=tuple(
            CellResult(scenario=answer.verb, case=case, target=each.name, slug=each.slug, outcome=outcome, error=error)
            for each in targets
        ),
        findings=tuple(findings),
    )


def conclude(
    run: Path,
    answer: Answer,
    results: Results,
    formats: Sequence[str],
    say: Callable[[str], None],
    bar: Bar = Bar(),
    missed: Sequence[Shortfall] = (),
) -> Results:
    """Write run.json, answer.json, gate.json and the reports."""
    from bncheck.report import render

    make_way(run)
    write_answer(answer, run)
    write_results(results, run)
    write_verdict(hold(results, bar, date.today(), tuple(missed)), run)
    render(run, formats, say, results=results)
    return results
