"""Environments that are damaged, half made or left over are made again, or left to whoever makes them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import toy_environments
from at_the_prompt import bncheck
from toy_environments import answer, make

from bncheck.environments.backend_file import BackendFile
from bncheck.environments.folder import MARKER, environments_folder, is_usable, locked, python_of
from bncheck.environments.pythons import Ready

pytestmark = pytest.mark.skipif(os.name == "nt", reason="paths of POSIX environments")
toy = toy_environments.toy  # a fixture


def damage_python(folder: Path) -> None:
    python_of(folder).unlink()


def damage_packages(folder: Path) -> None:
    for packages in folder.glob("lib/python*/site-packages"):
        shutil.rmtree(packages)


def damage_module(folder: Path) -> None:
    for module in folder.glob("lib/python*/site-packages/bnctoy.py"):
        module.unlink()


def damage_marker(folder: Path) -> None:
    (folder / MARKER).write_text('{"format": 1, "back')


def damage_marker_to_other_json(folder: Path) -> None:
    (folder / MARKER).write_text('{"format": 1}')


def damage_interpreter_to_a_text(folder: Path) -> None:
    python_of(folder).unlink()
    python_of(folder).write_text("no program")


def damage_another_package(folder: Path) -> None:
    for packages in folder.glob("lib/python*/site-packages"):
        shutil.rmtree(next(packages.glob("bnc_toy-*.dist-info")))


def damage_base(folder: Path) -> None:
    for link in (folder / "bin").glob("python*"):
        link.unlink()
        link.symlink_to(folder / "an-interpreter-that-was-removed")


DAMAGES = [damage_python, damage_packages, damage_module, damage_marker, damage_base, damage_marker_to_other_json,
           damage_interpreter_to_a_text, damage_another_package]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_environment_is_made_again(toy: dict[str, BackendFile], damage: object) -> None:
    first = make(toy)
    assert isinstance(first, Ready) and first.folder is not None
    assert callable(damage)
    damage(first.folder)
    assert not is_usable(first.folder)
    again = make(toy)
    assert again == first
    assert is_usable(first.folder)
    assert answer(first.python, "import bnctoy; print(bnctoy.__version__)") == "1.0"
    assert not list(environments_folder().glob("*.tmp-*"))


def test_one_whose_numpy_is_gone_is_made_again(toy: dict[str, BackendFile]) -> None:
    """Its framework is whole; the worker needs NumPy before that."""
    first = make(toy, "toy[numeric]")
    assert isinstance(first, Ready) and first.folder is not None
    (module,) = first.folder.glob("lib/python*/site-packages/numpy.py")
    module.unlink()
    assert not is_usable(first.folder)
    assert make(toy, "toy[numeric]") == first
    assert answer(first.python, "import numpy; print(numpy.__version__)") == "1.99"


def test_half_a_package_is_made_whole_by_env_create(toy: dict[str, BackendFile], tmp_path: Path) -> None:
    """A file deep in another package, or an interpreter that starts nothing: what a run finds out, it names the
    command that mends it."""
    backend = ("--backend-file", str(tmp_path / "toy.py"))
    assert bncheck("env", "create", "toy[fast]", *backend).returncode == 0
    (folder,) = (path for path in environments_folder().iterdir() if path.is_dir())
    (extra,) = folder.glob("lib/python*/site-packages/bncextra.py")
    extra.unlink()
    assert is_usable(folder)
    assert not is_usable(folder, thorough=True)
    assert "ready" in bncheck("env", "create", "toy[fast]", *backend).stdout
    assert extra.exists()
    python_of(folder).unlink()
    python_of(folder).write_text("no program")
    python_of(folder).chmod(0o755)
    assert "ready" in bncheck("env", "create", "toy[fast]", *backend).stdout
    assert answer(python_of(folder), "import bncextra; print(1)") == "1"


def test_one_that_is_being_made_is_not_damaged(toy: dict[str, BackendFile], tmp_path: Path) -> None:
    making = environments_folder() / "toy-1.0-0123456789.tmp-abcd"
    making.mkdir(parents=True)
    with locked(environments_folder() / "toy-1.0-0123456789"):
        (row,) = json.loads(bncheck("env", "list", "--json").stdout)["environments"]
        assert (row["usable"], row["state"]) == (False, "being made")
        assert bncheck("env", "remove", "--unused").stdout == "nothing to remove\n"
    assert bncheck("env", "remove", "--unused").stdout == f"removed {making.name}\n"


def test_leftovers_of_a_killed_process_are_cleared(toy: dict[str, BackendFile]) -> None:
    first = make(toy)
    assert isinstance(first, Ready) and first.folder is not None
    leftover = first.folder.with_name(f"{first.folder.name}.tmp-dead")
    first.folder.rename(leftover)
    (leftover / MARKER).unlink()
    assert make(toy) == first
    assert not leftover.exists()
