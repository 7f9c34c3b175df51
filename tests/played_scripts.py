"""Scripts of a run's findings, written, played on their real frameworks, and held against the report's figures."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
from conftest import finish, once, play

from bncheck.environments.backend_file import find_backends
from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import Target
from bncheck.repro.kit import subject_of
from bncheck.repro.scene import Scene, concerned, read_scene
from bncheck.repro.scripts import writer_of
from bncheck.repro.standalone.frame import Script, write_script
from bncheck.repro.standalone.subject import Subject
from bncheck.run_folder.results import read_results
from bncheck.worker.archive import write_npz

# Runs many scripts in one process, so that a framework is imported once; a script sees nothing of it.
MANY = """
import contextlib, io, json, runpy, sys
found = {}
for path in json.loads(sys.stdin.read()):
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_path(path, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        code = "%s: %s" % (type(error).__name__, error)
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()  # it compiles only so many networks in a process
    found[path] = [code, out.getvalue()]
print("@@" + json.dumps(found))
"""


@dataclass(frozen=True)
class Written:
    subject: Subject
    script: Script


def python_of(backend: str, variant: str = "") -> Path:
    """A Python that has the framework; skips where there is none, with the reason."""
    target = Target(backend, variant)
    answer = prepare([target], find_backends())[target]
    if not isinstance(answer, Ready):
        pytest.skip(f"{backend}: {answer.reason}. Remedy: {answer.remedy}")
    return answer.python


def scenes(run: Path, scenarios: Collection[str] = ()) -> Iterator[Scene]:
    """Of the findings about a case, in these scenarios or in all."""
    found = read_results(run)
    wanted = (each for each in found.findings if each.case and (not scenarios or each.scenario in scenarios))
    return (read_scene(run, found, each) for each in wanted)


def run_scripts(
    backend: str, scripts: dict[str, Script], folder: Path, variant: str = ""
) -> dict[str, tuple[int | str, str]]:
    """Script name → (exit code or the error it died of, what it printed)."""
    paths = []
    for name, script in scripts.items():
        place = folder / name
        place.mkdir(parents=True)
        stem = f"repro_{backend}"
        (place / f"{stem}.py").write_text(script.text, encoding="utf-8")
        if script.beside:
            write_npz(str(place / f"{stem}.npz"), script.beside)
        for end, content in script.files.items():
            (place / f"{stem}.{end}").write_bytes(content)
        paths.append(str(place / f"{stem}.py"))
    command = [str(python_of(backend, variant)), "-W", "ignore", "-c", MANY]
    done = subprocess.run(command, input=json.dumps(paths), capture_output=True, text=True, check=False)
    assert "@@" in done.stdout, done.stderr
    return {Path(path).parent.name: tuple(value) for path, value in json.loads(done.stdout.split("@@")[1]).items()}


def scripts_of(run: Path, backend: str, variant: str = "", scenarios: Collection[str] = ()) -> dict[str, Written]:
    """A script per finding of the run that concerns this target; one that cannot be written fails the test."""
    found = {}
    for number, scene in enumerate(scenes(run, scenarios)):
        for target in concerned(scene.finding, scene.played):
            if (target.backend, target.variant) == (backend, variant):
                subject, writer = subject_of(scene, target), writer_of(backend)
                assert writer is not None
                found[f"{scene.finding.scenario}-{number}-{scene.finding.code}"] = Written(
                    subject, write_script(subject, writer, f"repro_{backend}")
                )
    return found


def reported(script: str) -> list[str]:
    """The figures that the script's header says the report has."""
    lines = re.sub(r"\n# (?=[^R#])", " ", script).splitlines()
    return [line.split("Reported: ")[1].rstrip(".") for line in lines if "Reported: " in line]


def played_once(
    factory: pytest.TempPathFactory, name: str, scenarios: Sequence[str], targets: Sequence[str], *more: str
) -> Path:
    """A run of these scenarios on these targets and the reference, played by the first test that needs it."""
    folder, empty, lock = once(factory, name)
    try:
        if empty:
            words = (word for target in ("reference", *targets) for word in ("-t", target))
            play(folder, "run", *scenarios, *words, "--no-report", *more)
    finally:
        finish(folder, lock)
    return folder


def check_scripts(
    run: Path, backend: str, variant: str, folder: Path, scenarios: Collection[str] = (), most: int | None = None
) -> Counter[str]:
    """Write the script of every finding and run them, or the first so many; each must print the report's figures.
    Returns how many ran of each scenario."""
    written = dict(islice(scripts_of(run, backend, variant, scenarios).items(), most))
    played = run_scripts(backend, {name: each.script for name, each in written.items()}, folder, variant)
    return check_played(written, played)


def check_played(written: Mapping[str, Written], played: Mapping[str, tuple[int | str, str]]) -> Counter[str]:
    for name, each in written.items():
        code, printed = played[name]
        expected = 0 if each.subject.problem == "rounding" else 1
        assert code == expected, f"{name}: {code}\n{printed}\n{each.script.text}"
        figures = reported(each.script.text)
        assert figures or each.subject.problem in ("recorded", "repeated")
        assert [figure for figure in figures if figure not in printed] == [], f"{name}\n{printed}"
        assert "NameError" not in printed, f"{name} takes its own mistake for a refusal\n{printed}"
    return Counter(each.subject.case.scenario for each in written.values())
