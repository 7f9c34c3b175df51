"""tests/gpu/first_run.sh, rehearsed: carried wheels installed without an index, bounded steps, what comes back.

Here @cuda is unavailable with its reason unless there is a GPU; everything else is as it will be on such a machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import click
import pytest
from at_the_prompt import bncheck

from bncheck.environments.backend_file import find_backends
from bncheck.environments.devices import why_not
from bncheck.environments.pythons import Unavailable, prepare
from bncheck.environments.targets import parse_target
from bncheck.run_folder.results import read_results

SCRIPTS = Path(__file__).parent / "gpu"
pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(Python, wheels) as on that machine: torch and click are there, pydantic and rich are carried."""
    backends = find_backends()
    target = parse_target("torch", backends)
    place = prepare([target], backends)[target]
    assert not isinstance(place, Unavailable), place.reason
    folder = tmp_path_factory.mktemp("gpu")
    said = "import sys, sysconfig; print('%d.%d' % sys.version_info[:2], sysconfig.get_paths()['purelib'])"
    version, packages = subprocess.check_output([place.python, "-c", said], text=True).split(maxsplit=1)
    subprocess.run([place.python, "-m", "venv", folder / "there"], check=True)
    (site,) = (folder / "there" / "lib").glob("python*/site-packages")
    for package in Path(packages.strip()).iterdir():  # links: a .pth there is not followed from the script's venv
        if not (site / package.name).exists():
            (site / package.name).symlink_to(package)
    shutil.copytree(Path(click.__file__).parent, site / "click")
    subprocess.run([SCRIPTS / "fetch_wheels.sh", folder / "wheels", version], check=True, stdout=subprocess.DEVNULL)
    return folder / "there" / "bin" / "python", folder / "wheels"


@pytest.fixture(scope="module")
def out(machine: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "out"
    python, wheels = machine
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
    words = [SCRIPTS / "first_run.sh", wheels, folder, python, "doctor", "r0-tail"]
    done = subprocess.run(words, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_what_is_carried_fits(machine: tuple[Path, Path]) -> None:
    assert 0 < sum(file.stat().st_size for file in machine[1].iterdir()) < 64 * 2**20


def test_each_step_has_its_line(out: Path) -> None:
    rows = [line.split("\t") for line in (out / "steps.tsv").read_text(encoding="utf-8").splitlines()]
    assert [row[0] for row in rows] == ["doctor", "r0-tail"]
    assert [row[1] for row in rows] == ["0", "0"] if why_not("cuda") is None else ["0", "3"]


def test_what_comes_back_says_what_ran_where(out: Path, tmp_path: Path) -> None:
    with tarfile.open(out / "runs.tar.gz") as packed:
        packed.extractall(tmp_path, filter="data")
    targets = {target.name: target for target in read_results(tmp_path / "runs" / "r0-tail").targets}
    assert targets["torch"].status == "ok", targets["torch"].reason
    assert targets["torch"].environment["python"]
    if why_not("cuda") is not None:
        assert targets["torch@cuda"].status == "unavailable"
        assert "no NVIDIA GPU" in targets["torch@cuda"].reason


def test_it_is_joined_with_runs_from_elsewhere(out: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    bncheck("run", "r0-tail", "-t", "reference", "--no-probe", "--no-report", "-q", "--out", str(elsewhere))
    runs = (str(out / "runs" / "r0-tail"), str(elsewhere))
    done = bncheck("compare", *runs, "--no-report", "-q", "--out", str(tmp_path / "both"))
    assert done.returncode in ((0, 1) if why_not("cuda") is None else (3,)), done.stderr
    assert {target.status for target in read_results(tmp_path / "both").targets if target.backend == "torch"} >= {"ok"}
