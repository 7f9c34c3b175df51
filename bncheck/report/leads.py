"""The commands that lead on from a finding."""

from __future__ import annotations

import shlex

from bncheck.finding import Finding, numbered
from bncheck.report import plain_text
from bncheck.run_folder.results import Results


def commands_of(results: Results, finding: Finding, run: str) -> tuple[str, ...]:
    """What shows this finding alone, writes its kit, draws it, and explains its rule."""
    again = (command_of(results, finding),) if finding.scenario else ()  # a target's rules are measured behind any run
    return (*again, *kit_of(results, finding, run), *explained(finding))


def kit_of(results: Results, finding: Finding, run: str) -> tuple[str, ...]:
    """What writes its kit and draws it."""
    code, run = plain_text.clean(finding.code), shlex.quote(plain_text.clean(run))
    named = chosen_by(results, finding)
    return (f"bncheck repro {run} {named}", f"bncheck plot {run} {named} -o {code}.png") if finding.case else ()


def explained(finding: Finding) -> tuple[str, ...]:
    return (f"bncheck explain {plain_text.clean(finding.code)}",)


def chosen_by(results: Results, finding: Finding) -> str:
    """The words that `bncheck repro` finds this finding by: its code, with #k where it is the k-th of that code."""
    number = numbered(results.findings, {item.name for item in results.scenarios if item.probe}, finding)
    return shlex.quote(plain_text.clean(finding.code) + (f"#{number}" if number > 1 else ""))


def command_of(results: Results, finding: Finding) -> str:
    """The command that shows this finding alone."""
    wanted = dict.fromkeys((*finding.targets, results.yardstick))
    targets = " ".join(f"-t {shlex.quote(plain_text.clean(name))}" for name in wanted if name)
    return f"bncheck run {shlex.quote(plain_text.clean(finding.scenario))} {targets}".strip()
