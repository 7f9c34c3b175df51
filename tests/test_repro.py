"""The bug-report kit: every generated script runs on its real framework, prints the report's figures, and exits 1."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tomllib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from at_the_prompt import here
from conftest import finish, once, play
from hypothesis import given
from hypothesis import strategies as st
from literal_run import finding, results
from played_scripts import Written, check_played, check_scripts, python_of, reported, run_scripts, scenes, scripts_of

from bncheck.errors import RunFolderError, UsageError
from bncheck.repro.issue import LONGEST, LONGEST_TITLE, both, file_name, title_of
from bncheck.repro.kit import kit_name, subject_of, write_kit, write_scripts, zipped
from bncheck.repro.scene import choose_finding, read_scene
from bncheck.repro.scripts import writer_of
from bncheck.repro.standalone import brief
from bncheck.repro.standalone.frame import Script, write_script
from bncheck.repro.standalone.generator import regenerate
from bncheck.repro.standalone.literal import identifier, nested, scalar
from bncheck.repro.standalone.steps import Block, Step, affine, fold
from bncheck.repro.standalone.subject import CannotWriteError
from bncheck.run_folder.results import read_results
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.inputs import make_inputs
from bncheck.scenario_files.shipped import find_scenarios


@pytest.fixture(scope="session")
def onnx_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenarios with forwards only, on reference, torch and onnxruntime."""
    folder, empty, lock = once(tmp_path_factory, "onnx-run")
    try:
        if empty:
            names = ("all-ones", "all-zeros", "nan-sample", "one-value-per-channel", "events")
            play(folder, "run", *names, "-t", "reference", "-t", "torch", "-t", "onnxruntime")
    finally:
        finish(folder, lock)
    return folder


@dataclass(frozen=True)
class Played:
    """Scripts by name, and by the same names those whose expected values are what their own framework gives."""

    backend: str
    written: dict[str, Written]
    mended: dict[str, Script]
    outcomes: dict[str, tuple[int | str, str]]


LEAST = {"torch": 20, "mxnet": 10}  # scripts


@pytest.fixture(scope="module", params=sorted(LEAST))
def of_framework(request: pytest.FixtureRequest, default_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """All of one framework by one import of it."""
    backend = request.param
    python_of(backend)
    written = scripts_of(default_run, backend)
    mended = {f"{name}-mended": mend(each, backend) for name, each in written.items() if is_apart(each)}
    scripts = {name: each.script for name, each in written.items()} | mended
    return Played(backend, written, mended, run_scripts(backend, scripts, tmp_path_factory.mktemp(backend)))


def is_apart(each: Written) -> bool:
    return each.subject.problem == "differs"


def mend(each: Written, backend: str) -> Script:
    same = tuple(replace(quantity, there=quantity.here) for quantity in each.subject.quantities)
    subject = replace(each.subject, quantities=same, refused_there=each.subject.refused_here)
    return write_script(subject, writer_of(backend), f"repro_{backend}")  # type: ignore[arg-type]


def test_every_script_prints_the_reports_figures(of_framework: Played) -> None:
    assert check_played(of_framework.written, of_framework.outcomes).total() >= LEAST[of_framework.backend]


def test_every_script_of_onnxruntime_prints_the_reports_figures(onnx_run: Path, tmp_path: Path) -> None:
    python_of("onnxruntime")
    assert check_scripts(onnx_run, "onnxruntime", "", tmp_path).total() >= 5


def test_a_script_exits_0_once_the_framework_gives_what_is_expected(of_framework: Played) -> None:
    """The same program with the expected values replaced by what this framework gives: the problem is gone."""
    assert of_framework.mended
    for name in of_framework.mended:
        code, printed = of_framework.outcomes[name]
        assert code == 0, f"{name}\n{printed}"
        assert "The problem is gone." in printed


def test_the_figures_are_those_of_the_runs_drifts(default_run: Path) -> None:
    """all-ones, forwards only: mxnet stays at (0, 1), which is off by 0.90099 ± 0.20569."""
    found = read_results(default_run)
    scene = read_scene(default_run, found, choose_finding(found, "update-phase"))
    assert (scene.case.scenario, scene.case.name) == ("all-ones", "forward")
    _, scripts, reasons = write_scripts(scene)
    assert sorted(scripts) == ["repro_mxnet.py", "repro_torch.py"]
    assert reasons == {}
    for script in scripts.values():
        assert reported(script.text) == ["running_mean off by 0.90099 ± 0.20569 over 101 points",
                                         "running_var off by 0.90099 ± 0.20569 over 101 points"]  # fmt: skip


# ----------------------------------------------------------------------------------------------------- the command


def test_repro_writes_a_kit_with_the_smallest_case(default_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "kit"
    done = here("repro", str(default_run), "BN103", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "1 event on [2, 1, 1, 1] instead of 100 events on [8, 3, 32, 32]" in done.stdout
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "details.md",
        "drift.csv",
        "environment.md",
        "note.md",
        "plot.png",
        "plot.svg",
        "repro_mxnet.py",
        "repro_torch.py",
        "short_mxnet.py",
        "short_torch.py",
    ]
    assert "there is nothing to file" in done.stdout, "both do what they document"
    assert done.stdout.rstrip().endswith("short_mxnet.py"), "the side that does the unusual, or the first"
    issue = (out / "details.md").read_text(encoding="utf-8")
    for heading in (
        "What was done",
        "Expected",
        "Observed",
        "Which side is wrong",
        "Cause",
        "To reproduce",
        "Versions",
    ):
        assert f"\n## {heading}\n" in issue
    assert "0.90099 ± 0.20569" in issue
    assert str(default_run.parent) not in issue
    assert "all-ones" in (out / "drift.csv").read_text()
    played = subprocess.run(
        [str(python_of("mxnet")), str(out / "repro_mxnet.py")], capture_output=True, text=True, check=False
    )
    assert played.returncode == 1, played.stderr
    assert "running_mean off by 0.05000 ± 0.05000 over 2 points" in played.stdout
    assert "running_mean` off by 0.05000 ± 0.05000 over 2 points" in issue
    short = (out / "short_mxnet.py").read_text(encoding="utf-8")
    assert len(short.splitlines()) <= brief.LONGEST and short.count("assert") == 1
    played = subprocess.run(
        [str(python_of("mxnet")), str(out / "short_mxnet.py")], capture_output=True, text=True, check=False
    )
    assert played.returncode == 1 and "running_mean: [0.] expected: 0.1" in played.stdout
    assert "AssertionError" in played.stderr
    note = (out / "note.md").read_text(encoding="utf-8")
    assert len(note.splitlines()) <= LONGEST
    assert note.startswith("# mxnet 1.9.1 moves its running statistics in backward")
    assert "**Nobody is wrong**: neither side contradicts its own documentation." in note
    assert "[apache/mxnet" in note and "https://github.com/apache/mxnet/issues/18751" in note
    assert "`reference` is BatchNorm as in the paper" in note and "To file at" not in note


def test_an_issue_is_short_and_says_nan_as_nan(default_run: Path, tmp_path: Path) -> None:
    found = read_results(default_run)
    scene = read_scene(default_run, found, choose_finding(found, "BN301"))
    kit, _ = write_kit(default_run, found, scene, tmp_path / "kit")
    lines = (kit / "issue.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST
    assert lines[0].startswith("# running_mean of bn in torch 2.13.0 becomes NaN")
    assert len(lines[0]) <= LONGEST_TITLE + 2
    assert any(line.startswith("**Expected**: finite values in `running_mean`") for line in lines)
    assert any("`running_mean` holds NaN or Inf in" in line for line in lines)
    assert "To file at: [https://github.com/pytorch/pytorch/issues]" in "\n".join(lines)


@pytest.mark.slow
def test_every_issue_and_every_short_script_keeps_to_its_length(default_run: Path, tmp_path: Path) -> None:
    """And each short script fails on the framework that it is about, with its one assertion."""
    found = read_results(default_run)
    shorts = {}
    for number, scene in enumerate(scenes(default_run)):
        kit, _ = write_kit(default_run, found, scene, tmp_path / f"kit{number}")
        told = (kit / file_name(scene.finding)).read_text(encoding="utf-8").splitlines()
        assert len(told) <= LONGEST and len(told[0]) <= LONGEST_TITLE + 2
        shorts |= {(path, path.stem.split("_")[1]): path.read_text() for path in kit.glob("short_*.py")}
    assert len(shorts) >= 4
    for (path, backend), text in shorts.items():
        assert len(text.splitlines()) <= brief.LONGEST and len(re.findall(r"^(?:assert|np\.testing)", text, re.M)) == 1
        done = subprocess.run([str(python_of(backend)), str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "AssertionError" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("sentence", "title"),
    [
        ("running_mean of bn is NaN.", "running_mean of bn is NaN"),
        ("running_mean in reference and torch 2.13.0 becomes NaN.", "running_mean in torch 2.13.0 becomes NaN"),
        (
            "mxnet 1.9.1 moves its running statistics in backward, reference and torch 2.13.0 in forward.",
            "mxnet 1.9.1 moves its running statistics in backward",
        ),
        ("a " * 60, ("a " * 39).strip() + " …"),
        ("`x` <b>[l](http://y) @you | torch@cuda", "x b[l] (http://y) you  torch@cuda"),
    ],
)
def test_a_title_fits_its_field_and_holds_no_markup(sentence: str, title: str) -> None:
    assert title_of(sentence) == title and len(title) <= LONGEST_TITLE


def test_a_kit_is_the_same_bytes_twice_and_climbs_nowhere(default_run: Path, tmp_path: Path) -> None:
    found = read_results(default_run)
    scene = read_scene(default_run, found, choose_finding(found, "all-ones--forward"))
    archives = [write_kit(default_run, found, scene, tmp_path / str(turn) / "kit")[1].read_bytes() for turn in range(2)]
    assert archives[0] == archives[1]
    names = zipfile.ZipFile(io.BytesIO(archives[0])).namelist()
    assert "kit/note.md" in names
    assert all(name.startswith("kit/") and ".." not in name and "\\" not in name for name in names)
    # Written again into the same folder, over the first.
    write_kit(default_run, found, scene, tmp_path / "0" / "kit")
    (tmp_path / "0" / "kit" / "mine.txt").write_text("keep")
    with pytest.raises(RunFolderError, match=r"mine\.txt, which is no part of a kit"):
        write_kit(default_run, found, scene, tmp_path / "0" / "kit")


def test_a_kits_name_is_one_folder(default_run: Path) -> None:
    scene = next(scenes(default_run))
    hostile = replace(scene, finding=replace(scene.finding, scenario="../../etc", case="a b\n$(x)"))
    assert re.fullmatch(r"[A-Za-z0-9._-]+", kit_name(hostile))
    names = zipfile.ZipFile(io.BytesIO(zipped(kit_name(hostile), {"issue.md": b""}))).namelist()
    assert len(Path(names[0]).parts) == 2


def test_plot_writes_the_finding_as_a_picture(default_run: Path, tmp_path: Path) -> None:
    for name, magic in (("x.png", b"\x89PNG"), ("x.svg", b"<?xml")):
        done = here("plot", str(default_run), "BN103", "-o", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).read_bytes()[:4] == magic[:4] or (tmp_path / name).read_bytes().startswith(b"<svg")
    done = here("plot", str(default_run), "BN103", "-o", str(tmp_path / "x.gif"))
    assert done.returncode == 2 and "x.gif" in done.stderr


def test_findings_are_chosen_by_code_cause_number_and_case() -> None:
    run = results(findings=(finding(), finding(case="forward-backward"), finding(code="BN301", cause="overflow")))
    assert choose_finding(run, "BN103").case == "forward"
    assert choose_finding(run, "bn103#2").case == "forward-backward"
    assert choose_finding(run, "update-phase#2").case == "forward-backward"
    assert choose_finding(run, "overflow").code == "BN301"
    assert choose_finding(run, "all-ones--forward-backward").case == "forward-backward"
    with pytest.raises(UsageError, match=r"Did you mean update-phase\?"):
        choose_finding(run, "update-fase")
    with pytest.raises(UsageError, match="found 2 times, and #3 is none"):
        choose_finding(run, "BN103#3")
    with pytest.raises(UsageError, match="Nothing was found in the case one-value--base"):
        choose_finding(run, "one-value--base")


# -------------------------------------------------------------------------------------------------- what is written


def test_a_script_names_the_measured_versions(default_run: Path) -> None:
    scene = next(scene for scene in scenes(default_run) if scene.finding.cause == "update-phase")
    _, scripts, _ = write_scripts(scene)
    for name, script in scripts.items():
        block = re.search(r"^# /// script$\n(?P<content>(^#(| .*)$\n)+)^# ///$", script.text, re.MULTILINE)
        assert block is not None
        data = tomllib.loads("".join(line[2:] + "\n" for line in block["content"].splitlines()))
        backend = name.removeprefix("repro_").removesuffix(".py")
        target = next(item.target for item in scene.played if item.target.backend == backend)
        assert f"{backend}=={target.version.partition('+')[0]}" in data["dependencies"]
        assert f"numpy=={target.environment['numpy']}" in data["dependencies"]
        nodes = [node for node in ast.walk(ast.parse(script.text)) if isinstance(node, ast.Import)]
        imported = {alias.name.split(".")[0] for node in nodes
                    for alias in node.names}  # fmt: skip
        assert imported <= {"sys", "zlib", "numpy", backend}


def test_no_foreign_text_becomes_code(default_run: Path) -> None:
    """Names and sentences of an edited run folder stay comments and literals."""
    evil = 'x\nimport os; os.abort()\r\u2028os.abort()\n""" \' \\'
    scene = next(scene for scene in scenes(default_run) if scene.finding.cause == "update-phase")
    layer = scene.case.network.layers[0]
    targets = tuple(replace(item, target=replace(item.target, version=evil, python=evil, environment={"numpy": evil}))
                    for item in scene.played)  # fmt: skip
    hostile = replace(scene, finding=replace(scene.finding, title=evil, cause=evil), played=targets)
    _, scripts, _ = write_scripts(hostile)
    assert scripts
    for text in (text for script in scripts.values() for text in (script.text, script.brief)):
        tree = ast.parse(text)
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not any("os." in call for call in calls)
        assert "os" not in {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
    native = replace(layer, native={"torch": {"x=1, y": 2}})
    broken = replace(scene, case=replace(scene.case, network=replace(scene.case.network, layers=(native,))))
    target = next(item.target for item in scene.played if item.target.backend == "torch")
    with pytest.raises(CannotWriteError, match="is no Python name"):
        write_script(subject_of(broken, target), writer_of("torch"), "x")  # type: ignore[arg-type]


def test_recipes_give_the_recorded_bytes() -> None:
    """Every large input of the shipped scenarios is made again by the few lines that a script gets."""
    seen = set()
    for path in find_scenarios():
        for case in load_scenario(path).cases:
            for name, array in make_inputs(case).items():
                kind, _, of = name.partition("/")
                if kind == "param" or array.size <= 64 or bool((array == array.reshape(-1)[0]).all()):
                    continue
                variable = ("X" if kind == "x" else "DY") + ("" if of == "main" else f"_{of}")
                made = regenerate(variable, array, case.inputs[of], kind)
                if case.dtype == "bfloat16":  # NumPy has no such dtype: these lie in an .npz beside the script
                    continue
                if case.inputs[of].shifts or case.inputs[of].padding:  # no recipe moves or pads parts: likewise
                    continue
                assert made is not None, f"{case.id} {name}"
                seen.add(made[0])
    assert "normal" in seen


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_literals_read_back_as_the_same_value(value: float) -> None:
    assert np.float32(float(scalar(np.float32(value)))).tobytes() == np.float32(value).tobytes()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float64_literals_read_back_as_the_same_value(value: float) -> None:
    assert np.float64(float(scalar(np.float64(value)))).tobytes() == np.float64(value).tobytes()


def test_literals() -> None:
    assert nested(np.array([[1.0, np.nan], [-np.inf, 0.1]], dtype=np.float32)) == "[[1, np.nan], [-np.inf, 0.1]]"
    assert identifier("class") == "class_"
    assert identifier("3 x; import os") == "_3_x__import_os"
    assert identifier("bn", ("bn",)) == "bn_"
    assert [affine(0, 0), affine(3, 0), affine(0, 1), affine(1, 1), affine(1, 2)] == [
        "0",
        "3",
        "i",
        "i + 1",
        "2 * i + 1",
    ]


def expand(blocks: list[Block]) -> list[tuple[str, str, int, tuple[tuple[str, int], ...]]]:
    """The program that folded blocks play."""
    found = []
    for block in blocks:
        for turn in range(block.repeats):
            for position, step in enumerate(block.steps):
                move = turn * block.strides[position] if block.repeats > 1 else 0
                batch = step.batch if step.through else step.batch + move
                found.append((step.op, step.input, batch, tuple((name, b + move) for name, b in step.through)))
    return found


STEP = st.builds(
    lambda op, name, batch: Step(0, op, name, batch, through=((name, batch),) if op == "backward" else ()),
    st.sampled_from(["train_forward", "backward", "eval_forward"]), st.sampled_from(["main", "bad"]), st.integers(0, 3),
)  # fmt: skip


@given(
    st.lists(STEP, max_size=4), st.lists(STEP, min_size=1, max_size=4), st.integers(1, 9), st.lists(STEP, max_size=3)
)
def test_folding_keeps_the_program(head: list[Step], cycle: list[Step], repeats: int, tail: list[Step]) -> None:
    moved = [
        replace(step, batch=step.batch + turn, through=tuple((name, b + turn) for name, b in step.through))
        for turn in range(repeats)
        for step in cycle
    ]
    program = head + moved + tail
    wanted = [(s.op, s.input, s.batch, s.through) for s in program]
    got = expand(fold(program))
    assert [(op, name, 0 if t else b, t) for op, name, b, t in got] == [
        (op, name, 0 if t else b, t) for op, name, b, t in wanted
    ]


def test_a_framework_without_scripts_is_said(default_run: Path) -> None:
    scene = next(scene for scene in scenes(default_run) if scene.finding.cause == "update-phase")
    played = tuple(
        replace(item, target=replace(item.target, backend=item.target.backend.replace("mxnet", "haiku")))
        for item in scene.played
    )
    _, scripts, reasons = write_scripts(replace(scene, played=played))
    assert list(scripts) == ["repro_torch.py"]
    assert list(reasons.values()) == ["nobody has written scripts for haiku yet"]


def test_an_issue_without_a_script_points_to_none() -> None:
    item = finding()
    assert "- see the script, and details.md" in both(item, (), scripted=True)
    assert "- see details.md" in both(item, (), scripted=False)
