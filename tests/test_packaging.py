"""What a project takes from bncheck without its checkout: the package, the hooks, the image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest
from at_the_prompt import environment

ROOT = Path(__file__).parents[1]
HOOKS = ROOT / ".pre-commit-hooks.yaml"
BASH = shutil.which("bash")
DOCKER = shutil.which("docker")


# ----------------------------------------------------------------------------------------------------------- hooks


def entry_of(hook: str) -> str:
    """The command of a hook, as pre-commit splits it."""
    text = HOOKS.read_text(encoding="utf-8")
    (found,) = re.findall(rf"- id: {hook}\n(?:  .*\n)*?  entry: (.*)\n", text)
    return str(found)


def commit(hook: str, folder: Path, *files: str) -> subprocess.CompletedProcess[str]:
    """As pre-commit calls it: the entry, and behind it the files that are committed."""
    import shlex

    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "bncheck").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bncheck "$@"\n')
    (tools / "bncheck").chmod(0o755)
    known = environment(PATH=f"{tools}{os.pathsep}{os.environ['PATH']}", TMPDIR=str(folder))
    words = [*shlex.split(entry_of(hook)), *files]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, env=known)


def checkpoint(path: Path, variance: float) -> None:
    rng = np.random.default_rng(0)
    held = {"running_mean": rng.normal(size=4), "running_var": np.full(4, variance) * rng.uniform(0.5, 1, 4)}
    held |= {"weight": rng.uniform(0.5, 1, 4), "bias": rng.normal(size=4), "num_batches_tracked": np.array(500)}
    np.savez(path, **{f"bn.{name}": value.astype("f4") for name, value in held.items()})


@pytest.mark.skipif(BASH is None, reason="the hooks are for bash")
def test_a_damaged_checkpoint_is_not_committed(tmp_path: Path) -> None:
    checkpoint(tmp_path / "good.npz", 1.0)
    checkpoint(tmp_path / "bad one.npz", -1.0)
    before = set(tmp_path.iterdir())
    done = commit("bncheck-check", tmp_path, "good.npz", "bad one.npz")
    (said,) = done.stderr.strip().splitlines()
    assert done.returncode == 1 and "poisoned-state" in said and "bad one" in said, "nothing is said of the other"
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"bin"}, "what was made for it is gone"


@pytest.mark.skipif(BASH is None, reason="the hooks are for bash")
def test_a_push_is_held_against_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.bncheck]\nscenarios = ["al-ones"]\n')
    done = commit("bncheck-run", tmp_path)
    assert done.returncode == 2 and "all-ones" in done.stderr


# ----------------------------------------------------------------------------------------------------- the package


@pytest.mark.slow
@pytest.mark.network
def test_sdist_and_wheel_are_built_installed_and_work(tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    source = tmp_path / "source"
    kept = ("bncheck", "scenarios", "tests", "docs")
    source.mkdir()
    for path in ROOT.iterdir():
        if path.name in kept:
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy(path, source)
    subprocess.run([uv, "build", "--out-dir", str(tmp_path / "dist"), str(source)], check=True, capture_output=True)
    (wheel,), (sdist,) = (list((tmp_path / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (place,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = Parser().parsestr(archive.read(place).decode())
    shipped = {f"bncheck/scenarios/{path.name}" for path in (ROOT / "scenarios").glob("*.toml")}
    assert shipped <= names and "bncheck/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]
    assert told["License-Expression"] == "MIT" and told["Author"] and told["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in told.get_all("Classifier", [])
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())
    home = tmp_path / "venv"
    subprocess.run([uv, "venv", "--python", sys.executable, str(home)], check=True, capture_output=True)
    python = home / "bin" / "python"
    subprocess.run([uv, "pip", "install", "--python", str(python), str(wheel)], check=True, capture_output=True)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for words, said in (
        (["--version"], "bncheck, version"),
        (["list"], "all-ones"),
        (["new", "mine", "--from", "custom-layer"], "wrote    mine.toml"),
        (["explain", "update-phase"], "BN103"),
        (["run", "all-zeros", "-t", "reference", "--no-probe", "--no-report"], "Only reference ran"),
    ):
        done = subprocess.run(
            [str(home / "bin" / "bncheck"), *words],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )
        assert said in done.stdout, done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------------- the image


def test_the_image_takes_what_the_package_is_built_of() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    taken = {word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()}
    assert all((ROOT / name).exists() for name in taken)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert taken == let_in
    assert re.search(r'^ENTRYPOINT \["bncheck"\]$', text, re.MULTILINE) and "\nUSER bncheck\n" in text


def copied(target: Path) -> str:
    """What COPY puts into the image, below a folder; returns what RUN does then, with that folder for its root."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for names, place in re.findall(r"^COPY (.*) (\S+)$", text, re.MULTILINE):
        to = target / place.strip("/")
        for path in (ROOT / name for name in names.split()):
            if path.is_dir():
                shutil.copytree(path, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, to)
    (run,) = re.findall(r"^RUN (.*)$", text, re.MULTILINE)
    run = run.replace("useradd --create-home bncheck && ", "")  # it is not our system
    return re.sub(r"(?<=\s)/(?=src|cache|work)", f"{target}/", run)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.skipif(BASH is None, reason="an image has a shell")
def test_what_the_image_is_made_by_runs_in_a_fresh_environment(tmp_path: Path) -> None:
    """Where there is no Docker, as near to it as that comes: the same files, the same commands, the same variables."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, capture_output=True)
    known = {"PATH": f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    known |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    script = copied(tmp_path)
    subprocess.run([str(BASH), "-c", script], check=True, capture_output=True, cwd=tmp_path, env=known)
    assert not (tmp_path / "src").exists()
    known |= {"HOME": str(tmp_path / "cache"), "BNCHECK_CACHE": str(tmp_path / "cache")}
    words = ["bncheck", "run", "all-zeros", "-t", "reference", "-t", "reference[batch_weight=0.9]", "-q"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path / "work", env=known)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "work" / "reports").glob("*/index.html"))


@pytest.mark.slow
@pytest.mark.network
def test_the_image_is_built_and_answers() -> None:
    if DOCKER is None or subprocess.run([DOCKER, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker that answers")
    subprocess.run([DOCKER, "build", "-q", "-t", "bncheck-test", str(ROOT)], check=True, capture_output=True)
    done = subprocess.run(
        [DOCKER, "run", "--rm", "bncheck-test", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("bncheck, version")
