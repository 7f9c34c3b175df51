"""bncheck.sarif has what GitHub's code scanning demands of a file, and says what the exit code said."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import literal_run
import pytest

from bncheck.gate.bar import Bar, hold, write_verdict
from bncheck.gate.baseline import record
from bncheck.gate.charge import charges
from bncheck.report import render
from bncheck.report.sarif import LINE, physical

TODAY = date(2026, 1, 1)


def sarif(folder: Path, **bar: Any) -> dict[str, Any]:
    literal_run.write_run(folder)
    write_verdict(hold(literal_run.results(), Bar(**bar), TODAY), folder)
    (path,) = render(folder, ("sarif",))
    assert path.name == "bncheck.sarif"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_the_fields_that_github_demands(tmp_path: Path) -> None:
    found = sarif(tmp_path, fail_on="convention")
    assert found["version"] == "2.1.0" and found["$schema"].endswith("sarif-2.1.0.json")
    (run,) = found["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "bncheck" and driver["version"]
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(ids) == len(set(ids)) and all(rule["shortDescription"]["text"] for rule in driver["rules"])
    assert run["results"]
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note", "none")
        assert result["message"]["text"] and len(result["message"]["text"]) <= 1000
        (place,) = result["locations"]
        where = place["physicalLocation"]
        assert not where["artifactLocation"]["uri"].startswith(("/", "..")) and where["region"]["startLine"] >= 1
        assert result["partialFingerprints"]
    prints = [json.dumps(result["partialFingerprints"]) for result in run["results"]]
    assert len(set(prints)) == len(prints)


def test_the_level_says_what_the_exit_code_said(tmp_path: Path) -> None:
    (run,) = sarif(tmp_path / "a")["runs"]
    assert {item["ruleId"]: item["level"] for item in run["results"]} == {"BN301": "error", "BN103": "note"}
    known = record(charges(literal_run.results()))
    (run,) = sarif(tmp_path / "b", fail_on="convention", baseline=known)["runs"]
    assert {item["level"] for item in run["results"]} == {"warning"}
    assert all(item["suppressions"][0]["kind"] == "external" for item in run["results"])


@pytest.mark.parametrize(
    ("sentence", "line"),
    [
        ("evaluate() at train.py:12 called eval() in step 40", ("train.py", "12")),
        ("by src/net/train.py:7.", ("src/net/train.py", "7")),
        ("eps of bn is 0.001:3", None),
    ],
)
def test_a_line_of_the_users_is_the_place(sentence: str, line: tuple[str, str] | None) -> None:
    match = LINE.search(sentence)
    assert (match.groups() if match else None) == line


@pytest.mark.parametrize(
    ("path", "uri"),
    [("model.onnx", "model.onnx"), ("/home/me/model.pt", "model.pt"), ("../x.pt", "x.pt"), ("a b/c.pt", "a%20b/c.pt")],
)
def test_a_place_lies_inside_the_repository(path: str, uri: str) -> None:
    assert physical(path, 0)["physicalLocation"]["artifactLocation"]["uri"] == uri
