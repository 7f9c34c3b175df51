"""tests/gpu/first_run.sh, rehearsed: carried wheels installed without an index, bounded steps, what comes back.

Here @cuda is unavailable with its reason unless there is a GPU; everything else is as it will be on such a machine.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import click
import pytest
from at_the_prompt import bncheck
from packaging.requirements import Requirement

from bncheck.environments.backend_file import find_backends
from bncheck.environments.devices import why_not
from bncheck.environments.pythons import Unavailable, prepare
from bncheck.environments.targets import parse_target
from bncheck.run_folder.results import Results, read_results
from bncheck.scenario_files.shipped import find_scenarios

SCRIPTS = Path(__file__).parent / "gpu"
SCRIPT = SCRIPTS / "first_run.sh"
CUDA = why_not("cuda") is None
PASSED = ("0",) if CUDA else ("0", "3")  # what is asked for and not there
network = pytest.mark.network


def steps() -> dict[str, list[str]]:
    """Step → its words in the script: the most seconds, then what it plays."""
    text = re.sub(r"\\\n\s*", "", SCRIPT.read_text(encoding="utf-8"))
    both = re.search(r"^both=\((.*)\)$", text, re.M)
    assert both is not None
    found = {}
    for line in re.findall(r"^(?:played|step) .*$", text, re.M):
        _, name, *words = shlex.split(line.replace('"${both[@]}"', both[1]))
        found[name] = words
    return found


def rows(out: Path) -> list[list[str]]:
    return [line.split("\t") for line in (out / "steps.tsv").read_text(encoding="utf-8").splitlines()]


def unpacked(out: Path, folder: Path) -> Path:
    with tarfile.open(out / "runs.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder


# ------------------------------------------------------------------------------------------- the script as it stands


def test_all_steps_together_fit_six_minutes() -> None:
    found = steps()
    assert sum(int(words[0]) for words in found.values()) <= 345
    assert list(found)[:4] == ["install", "first", "defaults", "r0-tail"]


@pytest.mark.parametrize("name", [name for name, words in steps().items() if "--" in words])
def test_a_step_plays_what_there_is_on_both_devices(name: str) -> None:
    words = steps()[name][1:]
    place = words.index("--")
    backends = find_backends()
    targets = [parse_target(word, backends) for word in words[place + 1 :]]
    assert {target.device for target in targets} == {"cpu", "cuda"}
    named = [word for word in words[:place] if "=" not in word and not word.startswith(("--", "$"))]
    assert set(named) <= {path.stem for path in find_scenarios()}


def test_the_flax_that_is_carried_runs_on_the_jax_that_is_there() -> None:
    """0.11.2 on the machine that was looked at; Flax 0.12.2 had been carried, which fails on it."""
    pinned = re.search(r"^flax==(.*)$", (SCRIPTS / "wheels.txt").read_text(encoding="utf-8"), re.M)
    assert pinned is not None
    row = find_backends()["flax"].row_for(pinned[1])
    assert row is not None
    (needed,) = [Requirement(package) for package in row.packages if package.startswith("jax")]
    assert needed.specifier.contains("0.11.2")


# ----------------------------------------------------------------------------------------------------- as it is run


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(Python, wheels) as on that machine: torch and click are there, pydantic and rich are carried."""
    if "BNCHECK_REHEARSAL_PYTHON" in os.environ:
        return Path(os.environ["BNCHECK_REHEARSAL_PYTHON"]), Path(os.environ["BNCHECK_REHEARSAL_WHEELS"])
    backends = find_backends()
    target = parse_target("torch", backends)
    place = prepare([target], backends)[target]
    assert not isinstance(place, Unavailable), place.reason
    folder = tmp_path_factory.mktemp("gpu")
    said = "import sys, sysconfig; print('%d.%d' % sys.version_info[:2], sysconfig.get_paths()['purelib'])"
    version, packages = subprocess.check_output([place.python, "-c", said], text=True).split(maxsplit=1)
    subprocess.run([place.python, "-m", "venv", "--without-pip", folder / "there"], check=True)
    (site,) = (folder / "there" / "lib").glob("python*/site-packages")
    pip = subprocess.check_output(["python3", "-c", "import pip; print(*pip.__path__)"], text=True)
    (site / "pip").symlink_to(pip.strip())  # the one that fetches the wheels: another one takes seconds to install
    for package in Path(packages.strip()).iterdir():  # links: a .pth there is not followed from the script's venv
        if not (site / package.name).exists():
            (site / package.name).symlink_to(package)
    shutil.copytree(Path(click.__file__).parent, site / "click")
    subprocess.run([SCRIPTS / "fetch_wheels.sh", folder / "wheels", version], check=True, stdout=subprocess.DEVNULL)
    return folder / "there" / "bin" / "python", folder / "wheels"


def started(machine: tuple[Path, Path], out: Path, *wanted: str, slower: int = 4) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
    words = [str(word) for word in (SCRIPT, machine[1], out, machine[0], *wanted)]
    env = {**clean, "BNCHECK_SLOWER": str(slower)}
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def out(machine: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "out"
    running = started(machine, folder, "doctor", "autocast")
    said, _ = running.communicate()
    assert running.returncode == 0, said
    return folder


@network
def test_what_is_carried_fits(machine: tuple[Path, Path]) -> None:
    assert 0 < sum(file.stat().st_size for file in machine[1].iterdir()) < 64 * 2**20


@network
def test_each_step_has_its_line(out: Path) -> None:
    assert [row[0] for row in rows(out)] == ["install", "autocast", "doctor"]
    assert [row[1] for row in rows(out)] == ["0", "0" if CUDA else "3", "0"]
    assert sorted(path.name for path in out.iterdir()) == ["runs.tar.xz", "steps.tsv"]


@network
def test_what_comes_back_says_what_ran_where(out: Path, tmp_path: Path) -> None:
    folder = unpacked(out, tmp_path)
    assert (folder / "steps.tsv").read_text() == (out / "steps.tsv").read_text()
    assert sorted(path.stem for path in (folder / "logs").iterdir()) == ["autocast", "doctor", "install", "machine"]
    targets = {target.name: target for target in read_results(folder / "runs" / "autocast").targets}
    assert targets["torch"].status == "ok", targets["torch"].reason
    assert targets["torch"].environment["python"]
    if not CUDA:
        assert targets["torch@cuda"].status == "unavailable"
        assert "no NVIDIA GPU" in targets["torch@cuda"].reason


@network
def test_it_is_joined_with_runs_from_elsewhere(out: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    bncheck("run", "autocast", "-t", "reference", "--no-probe", "--no-report", "-q", "--out", str(elsewhere))
    runs = (str(unpacked(out, tmp_path) / "runs" / "autocast"), str(elsewhere))
    done = bncheck("compare", *runs, "--no-report", "-q", "--out", str(tmp_path / "both"))
    assert done.returncode in ((0, 1) if CUDA else (3,)), done.stderr
    assert {target.status for target in read_results(tmp_path / "both").targets if target.backend == "torch"} >= {"ok"}


# ------------------------------------------------------------------------------------------------------- all of it


@pytest.mark.slow
@network
@pytest.mark.timeout(1800)
def test_all_of_it(machine: tuple[Path, Path], tmp_path: Path) -> None:
    running = started(machine, tmp_path / "out")
    said, _ = running.communicate()
    assert running.returncode == 0, said
    assert [row[0] for row in rows(tmp_path / "out")] == list(steps())
    assert {row[0]: row[1] for row in rows(tmp_path / "out") if row[1] not in PASSED} == {}, said
    assert (tmp_path / "out" / "runs.tar.xz").stat().st_size < 16 * 2**20
    runs = unpacked(tmp_path / "out", tmp_path) / "runs"
    found = {path.name: read_results(path) for path in runs.iterdir()}
    assert set(found) == {name for name, words in steps().items() if "--" in words}
    for name, results in found.items():
        assert missing(results, machine) == {}, name
        assert [cell for cell in results.cells if cell.origin in ("bncheck", "backend")] == [], name


def missing(results: Results, machine: tuple[Path, Path]) -> Mapping[str, str]:
    """Targets that did not run for another reason than that there is no GPU, or no JAX in this rehearsal."""
    jax = subprocess.run([machine[0], "-c", "import jax"], check=False, capture_output=True).returncode == 0
    without_jax = ("No module named 'jax'", "No module named 'ml_dtypes'")  # which Keras needs and JAX brings
    expected = ("no NVIDIA GPU", *(() if jax else without_jax))
    return {
        target.name: target.reason
        for target in results.targets
        if target.status != "ok" and not any(words in target.reason for words in expected)
    }


@pytest.mark.slow
@network
@pytest.mark.parametrize("seconds", [1, 4, 8])
def test_what_was_finished_comes_back_from_a_run_that_is_ended(
    machine: tuple[Path, Path], tmp_path: Path, seconds: int
) -> None:
    running = started(machine, tmp_path / "out", "defaults", "r0-tail")
    steps_file = tmp_path / "out" / "steps.tsv"
    while not (steps_file.is_file() and steps_file.read_text()):
        time.sleep(0.1)
    time.sleep(seconds)
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate()
    assert running.returncode == 143, said
    assert rows(tmp_path / "out")[-1][1] == "stopped"
    folder = unpacked(tmp_path / "out", tmp_path)
    for name, code, _ in rows(tmp_path / "out"):
        assert (folder / "logs" / f"{name}.log").is_file()
        if code in PASSED and name != "install":
            assert read_results(folder / "runs" / name).targets


@pytest.mark.slow
@network
@pytest.mark.parametrize("seconds", [1, 4, 8])
def test_a_run_that_is_killed_leaves_whole_archives_and_nobody(
    machine: tuple[Path, Path], tmp_path: Path, seconds: int
) -> None:
    running = started(machine, tmp_path / "out", "autocast", "defaults")
    steps_file = tmp_path / "out" / "steps.tsv"
    while not (
        steps_file.is_file() and "autocast" in steps_file.read_text() and (tmp_path / "out/runs.tar.xz").exists()
    ):
        time.sleep(0.1)
    time.sleep(seconds)
    running.kill()
    running.communicate()  # until nobody holds what it prints to
    folder = unpacked(tmp_path / "out", tmp_path)
    assert read_results(folder / "runs" / "autocast").targets


# ------------------------------------------------------------------------------------------------- MXNet, on its own


def mxnet_packages() -> set[str]:
    row = find_backends()["mxnet"].row_for("1.9.1", "cuda")
    assert row is not None
    return {re.split(r"[=<>]", package)[0] for package in row.packages}


def test_the_recipe_names_the_packages_that_an_environment_gets() -> None:
    text = (SCRIPTS / "mxnet_cuda.sh").read_text(encoding="utf-8")
    named = set(re.findall(r"pip install '?((?:nvidia|mxnet)-[a-z0-9-]+)", text))
    assert len(named) >= 6
    assert named <= mxnet_packages()


@pytest.mark.slow
@network
def test_mxnet_without_cuda_is_said_and_tried(tmp_path: Path) -> None:
    backends = find_backends()
    target = parse_target("mxnet", backends)
    place = prepare([target], backends)[target]
    assert not isinstance(place, Unavailable), place.reason
    words = [SCRIPTS / "mxnet_cuda.sh", tmp_path / "out", place.python]
    env = {**os.environ, "BNCHECK_PYTHON": sys.executable}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert "libmxnet.so is a build without CUDA" in done.stdout
    assert done.returncode == 3, done.stdout + done.stderr
    targets = {item.name: item for item in read_results(tmp_path / "out" / "run").targets}
    assert (targets["mxnet"].status, targets["mxnet@cuda"].status) == ("ok", "unavailable")
