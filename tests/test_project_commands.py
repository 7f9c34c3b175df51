"""Commands for a project of one's own: new, show --toml, schema, init, diff of two runs; and what a shell completes."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import literal_run
import pytest
from at_the_prompt import here

from bncheck.cli import cli
from bncheck.gate.baseline import parse
from bncheck.gate.config import read_configuration
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.json_schema import CHECKED, json_schema
from bncheck.scenario_files.keys import TABLES
from bncheck.scenario_files.shipped import find_scenarios

ROOT = Path(__file__).parents[1]

# ------------------------------------------------------------------------------------------------------ new, show


def test_a_scenario_is_begun_from_a_shipped_one(tmp_path: Path) -> None:
    done = here("new", "mine", cwd=tmp_path)
    assert done.returncode == 0 and " run it   bncheck run mine.toml" in done.stdout
    text = (tmp_path / "mine.toml").read_text()
    assert text.startswith("#:schema ./bncheck.schema.json\n")
    mine, theirs = load_scenario(tmp_path / "mine.toml"), load_scenario(ROOT / "scenarios" / "all-ones.toml")
    assert [case.events for case in mine.cases] == [case.events for case in theirs.cases]
    assert theirs.default and not mine.default, "a plain `bncheck run` plays what is shipped"


def test_files_that_a_scenario_names_come_along(tmp_path: Path) -> None:
    done = here("new", "mine", "--from", "custom-layer", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r" wrote    ", done.stdout)) == len(list(tmp_path.rglob("*.*"))) >= 2
    assert load_scenario(tmp_path / "mine.toml").cases[0].network.custom.startswith(str(tmp_path))  # type: ignore[union-attr]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("kept")
    done = here("new", "mine", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "mine.toml").read_text()) == (2, "kept")
    assert "mine.toml is there already, and is not overwritten" in done.stderr
    for name in ("../mine", "a/b", "", "x" * 65):
        assert here("new", name, cwd=tmp_path).returncode == 2
    assert here("new", "other", "--from", "al-ones", cwd=tmp_path).returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_the_file_of_a_scenario_is_printed() -> None:
    done = here("show", "all-ones", "--toml")
    assert done.stdout == (ROOT / "scenarios" / "all-ones.toml").read_text()
    assert here("show", "all-ones", "--toml", "--set", "program.repeat=3").returncode == 2


# --------------------------------------------------------------------------------------------------------- schema


def test_the_schema_has_every_key_with_its_sentence() -> None:
    done = here("schema")
    found = json.loads(done.stdout)
    assert found == json.loads(json.dumps(json_schema()))
    tables = {"Document": found, **found["$defs"]}
    for model, (_, told) in TABLES.items():
        table = tables[model.__name__]
        assert table["additionalProperties"] is False
        assert {key: value["description"] for key, value in table["properties"].items()} == dict(told)
    for model, key in CHECKED:
        assert key in tables[model]["properties"], f"{model}.{key}"
    assert "null" not in done.stdout and found["$schema"].startswith("https://json-schema.org/")


def faults(value: Any, schema: dict[str, Any], whole: dict[str, Any], at: str = "") -> list[str]:
    """What of JSON Schema the schema of scenarios is written in, and no more of it than that."""
    known = {"$ref", "anyOf", "const", "enum", "type", "properties", "required", "additionalProperties", "items",
             "minItems", "maxItems", "minimum", "maximum", "exclusiveMaximum", "minLength", "maxLength", "pattern",
             "description", "title", "$schema", "$defs", "default", "propertyNames", "patternProperties"}  # fmt: skip
    assert set(schema) <= known, set(schema) - known
    if "$ref" in schema:
        return faults(value, whole["$defs"][schema["$ref"].rpartition("/")[2]], whole, at)
    if "anyOf" in schema:
        tried = [faults(value, one, whole, at) for one in schema["anyOf"]]
        return [] if not all(tried) else min(tried, key=len)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    kind = kinds.get(schema.get("type", ""), object)
    if not isinstance(value, kind) or (isinstance(value, bool) and schema.get("type") in ("integer", "number")):
        return [f"{at}: {value!r} is no {schema['type']}"]
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return [f"{at}: {value!r} is not allowed"]
    if isinstance(value, list):
        return [
            found
            for place, one in enumerate(value)
            for found in faults(one, schema.get("items", {}), whole, f"{at}[{place}]")
        ]
    if not isinstance(value, dict):
        return []
    missing = [f"{at}: no {key}" for key in schema.get("required", ()) if key not in value]
    known_keys, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    patterns = schema.get("patternProperties", {})
    for key, one in value.items():
        matching = next((inner for pattern, inner in patterns.items() if re.search(pattern, key)), None)
        inner = known_keys.get(key, matching)
        if inner is None and others is False:
            missing.append(f"{at}.{key} is unknown")
        missing += faults(
            one, inner if inner is not None else others if isinstance(others, dict) else {}, whole, f"{at}.{key}"
        )
    return missing


def test_the_schema_takes_what_bncheck_takes_and_refuses_what_it_refuses() -> None:
    schema = json_schema()
    for path in find_scenarios():
        assert faults(tomllib.loads(path.read_text()), schema, schema) == [], path.name
    for wrong in ("momentum = 0.1", 'dtype = "float33"', "[input]\nshape = [4, true]", '[program]\nevents = ["save"]'):
        text = 'title = "x"\nnetwork = { layers = [] }\n' + (
            wrong if "program" in wrong else f"program = {{}}\n{wrong}"
        )
        assert faults(tomllib.loads(text), schema, schema), wrong


def test_shipped_scenarios_say_why() -> None:
    assert [path.name for path in find_scenarios() if not load_scenario(path).why.strip()] == []


# ----------------------------------------------------------------------------------------------------------- init


def test_a_project_is_set_up_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    first = here("init", cwd=tmp_path)
    assert first.returncode == 0 and "added    [tool.bncheck] to pyproject.toml" in first.stdout
    text = (tmp_path / "pyproject.toml").read_text()
    assert text.startswith('[project]\nname = "mine"\n\n[tool.bncheck]\n')
    known = read_configuration(tmp_path / "pyproject.toml")
    assert known.targets == ("reference", "torch") and known.baseline is None
    assert "bncheck run --out bncheck-run" in (tmp_path / ".github/workflows/bncheck.yml").read_text()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = here("init", cwd=tmp_path)
    assert again.stdout.count(" kept     ") == 2 and "wrote" not in again.stdout
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_the_newest_run_is_the_baseline_of_a_project(tmp_path: Path) -> None:
    for name in ("20260101T000000Z-aaaa", "20260102T000000Z-bbbb"):
        literal_run.write_run(tmp_path / "reports" / name)
    done = here("init", cwd=tmp_path)
    assert "wrote    bncheck-baseline.json, with what 20260102T000000Z-bbbb found" in done.stdout
    text = (tmp_path / "bncheck-baseline.json").read_text()
    assert {entry.cause for entry in parse(text, "x")} >= {"update-phase", "poisoned-state"}
    assert read_configuration(tmp_path / "pyproject.toml").baseline == tmp_path / "bncheck-baseline.json"


# ------------------------------------------------------------------------------------------------- diff of two runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """before, and after: the NaN is gone, update-phase is larger, a variance divisor is new."""
    before = literal_run.results()
    phase, nan = before.findings
    drifts = tuple(
        replace(each, mean_abs=3 * each.mean_abs) if each.b == "mxnet" and each.case == "forward" else each
        for each in before.drifts
    )
    sides = (("mxnet",), ("reference",))
    phase = replace(phase, sides=sides)
    new = literal_run.finding(code="BN102", cause="variance-divisor", title="mxnet divides by n.", sides=sides,
                              quantity="running_var")  # fmt: skip
    literal_run.write_run(tmp_path / "reports" / "before", replace(before, findings=(phase, nan)))
    literal_run.write_run(tmp_path / "reports" / "after", replace(before, findings=(phase, new), drifts=drifts))
    return tmp_path


def test_what_is_new_worse_and_gone_between_two_runs(runs: Path) -> None:
    done = here("diff", "reports/before", "after", cwd=runs)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        " new    BN102 variance-divisor (convention) in all-ones · forward: mxnet divides by n.",
        " worse  BN103 update-phase (convention) in all-ones · forward: off by 2.703, was 0.901",
        " gone   poisoned-state (defect) in one-value: between mxnet, reference",
        " 1 new, 1 worse, 1 gone; 0 findings as before",
    ]
    told = json.loads(here("diff", "before", "after", "--json", cwd=runs).stdout)
    assert [change["what"] for change in told["changes"]] == ["new", "worse", "gone"]


def test_a_run_differs_from_itself_in_nothing(runs: Path) -> None:
    done = here("diff", "before", "reports/before/run.json", cwd=runs)
    assert (done.returncode, done.stdout) == (0, " 0 new, 0 worse, 0 gone; 2 findings as before\n")


def test_a_run_is_compared_with_runs_only(runs: Path) -> None:
    done = here("diff", "before", "model.pt", cwd=runs)
    assert done.returncode == 2 and "model.pt is no run" in done.stderr


# ----------------------------------------------------------------------------------------- the newest run, by itself


def test_the_newest_run_needs_no_name(tmp_path: Path) -> None:
    run = tmp_path / "reports" / "20260101T000000Z-aaaa"
    literal_run.write_run(run)
    (tmp_path / "reports" / "latest").symlink_to(run.name)
    assert here("baseline", "update", "known.json", cwd=tmp_path).stdout.startswith("known.json: ")
    assert here("plot", "BN103", "-o", "picture.svg", cwd=tmp_path).stdout == " wrote    picture.svg\n"
    done = here("repro", "BN999", cwd=tmp_path)
    assert done.returncode == 2 and "BN999" in done.stderr
    done = here("report", "nope", cwd=tmp_path)
    assert "There is no run folder nope. There are: 20260101T000000Z-aaaa." in done.stderr
    assert here("repro", "a", "b", "c", cwd=tmp_path).returncode == 2


# ------------------------------------------------------------------------------------------------------ completion


def completed(folder: Path, words: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from click.shell_completion import BashComplete

    monkeypatch.chdir(folder)
    *given, begun = words.split(" ")
    return [item.value for item in BashComplete(cli, {}, "bncheck", "_X").get_completions(given, begun)]


@pytest.mark.parametrize(
    ("words", "some"),
    [
        ("run all-", ["all-ones", "all-zeros"]),
        ("run my", ["my-check.toml"]),
        ("show all-o", ["all-ones"]),
        ("new x --from all-z", ["all-zeros"]),
        ("run -t ker", ["keras", "keras[jax]"]),
        ("env create tor", ["torch", "torch[onnx]"]),
        ("explain BN10", ["BN101", "BN103"]),
        ("explain update-p", ["update-phase"]),
        ("repro lat", ["latest"]),
        ("repro 2026", ["20260101T000000Z-aaaa"]),
        ("repro latest BN30", ["BN301", "BN302"]),
        ("report 2026", ["20260101T000000Z-aaaa"]),
        ("report --format sa", ["sarif"]),
        ("compare lat", ["latest"]),
    ],
)
def test_a_shell_completes(words: str, some: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    literal_run.write_run(tmp_path / "reports" / "20260101T000000Z-aaaa")
    (tmp_path / "my-check.toml").touch()
    assert set(some) <= set(completed(tmp_path, words, monkeypatch))
