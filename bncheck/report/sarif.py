"""``bncheck.sarif``: what was found as SARIF 2.1.0, for GitHub's code scanning and other viewers.

One result per finding and case, all of them: what a baseline or a waiver accepts is marked as suppressed. The level
says what the exit code said: *error* is what fails.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from bncheck.diagnosis.rules import load_rules
from bncheck.gate.bar import Judged, Verdict, read_verdict
from bncheck.report.gallery import Gallery
from bncheck.report.layers import Told, told_of
from bncheck.report.plain_text import clean, one_line
from bncheck.report.summary import place
from bncheck.run_folder.results import Results
from bncheck.run_folder.whole import write_whole

NAME = "sarif"
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
SUPPRESSED = {"known": "in the baseline", "waived": "waived"}
LEVELS = {"fails": "error", "known": "warning", "waived": "warning", "unchecked": "note", "below": "note"}
MOST = 5000  # results that GitHub takes of one run
LONGEST = 1000  # letters of a message
# A line of the user's, as findings about watched programs name it: ``train.py:12``.
LINE = re.compile(r"(?<![\w/.-])((?:[\w.-]+/)*[\w-]+\.py):(\d+)")


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    verdict, told = read_verdict(run_folder, results), told_of(results, run_folder)
    found = json.dumps(document(results, verdict, told), indent=1, ensure_ascii=False)
    return [write_whole(run_folder / "bncheck.sarif", found + "\n")]


def document(results: Results, verdict: Verdict, told: Told | None = None) -> dict[str, Any]:
    judged = [item for item in verdict.judged if item.charge.kind != "drift"]
    order = {standing: number for number, standing in enumerate(LEVELS)}
    judged = sorted(judged, key=lambda item: order.get(item.standing, len(order)))[:MOST]
    rules = list(dict.fromkeys(rule_id(item) for item in judged))
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "bncheck", "version": results.version, "rules": list(described(rules))}},
                "results": [result(item, rules, told) for item in judged],
            }
        ],
    }


def rule_id(item: Judged) -> str:
    return clean(item.charge.code or item.charge.cause)


def described(codes: list[str]) -> Iterator[dict[str, Any]]:
    known = {rule.code: rule for rule in load_rules()}
    for code in codes:
        rule = known.get(code)
        if rule is None:  # an expectation, a crash
            yield {"id": code, "name": code, "shortDescription": {"text": code}}
            continue
        yield {
            "id": code,
            "name": rule.cause,
            "shortDescription": {"text": rule.title},
            "fullDescription": {"text": rule.title},
            "help": {"text": rule.explanation or rule.title},
        }


def result(item: Judged, rules: list[str], told: Told | None) -> dict[str, Any]:
    charge, code = item.charge, rule_id(item)
    where = place(charge.scenario, charge.case)
    message = charge.sentence if told is not None else f"{where}: {charge.sentence}"
    key = "|".join((code, charge.scenario, charge.case, charge.layer, *charge.targets))
    found: dict[str, Any] = {
        "ruleId": code,
        "ruleIndex": rules.index(code),
        "level": LEVELS.get(item.standing, "note"),
        "message": {"text": one_line(message, LONGEST)},
        "locations": [location(item, told)],
        "partialFingerprints": {"bncheck/v1": hashlib.sha256(key.encode()).hexdigest()[:32]},
    }
    if item.standing in SUPPRESSED:
        said = one_line(item.note or SUPPRESSED[item.standing], LONGEST)
        found["suppressions"] = [{"kind": "external", "justification": said}]
    return found


def location(item: Judged, told: Told | None) -> dict[str, Any]:
    """The user's line where the finding names one, else the file that was looked at, else the scenario."""
    line = LINE.search(item.charge.sentence)
    if line is not None:
        return physical(line[1], int(line[2]))
    subject = told.answer.subject.rpartition(":")[0] or told.answer.subject if told is not None else ""
    return physical(subject if subject else f"scenarios/{item.charge.scenario or 'run'}.toml", 1)


def physical(path: str, line: int) -> dict[str, Any]:
    """A path inside the repository: relative, without ``..``; of any other its name alone."""
    found = PurePosixPath(clean(path).replace("\\", "/"))
    inside = found if not found.is_absolute() and ".." not in found.parts else PurePosixPath(found.name or "run")
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": quoted(str(inside)), "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": max(line, 1)},
        }
    }


def quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
