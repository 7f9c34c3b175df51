"""Interpreters are believed only when they answer."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import pytest
from patience import patience

from bncheck.environments import interpreters
from bncheck.environments.interpreters import Interpreter, ask, ask_all, distinct, find_interpreters

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")
HERE = ".".join(map(str, sys.version_info[:3]))


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_current_interpreter_is_first_and_each_installation_is_there_once() -> None:
    found = find_interpreters()
    assert found[0].version == HERE
    assert len(set(found)) == len(found)
    assert all(ask(item.path) is not None for item in found)


def test_a_dead_shim_is_left_out_and_a_live_one_leads_to_the_real_interpreter(tmp_path: Path) -> None:
    dead = script(tmp_path / "python3.8", "echo 'pyenv: python3.8: command not found' >&2; exit 127")
    not_python = script(tmp_path / "python3.9", "echo '[1, 2]'")
    missing = tmp_path / "python3.7"
    live = script(tmp_path / "python3", f'exec "{sys.executable}" "$@"')
    assert ask(dead) is None
    assert ask(missing) is None
    assert ask(not_python) is None
    assert ask(live) == Interpreter(live, HERE)
    (real, prefix), = ask_all([dead, missing, live])  # fmt: skip
    assert real.version == HERE
    assert prefix == os.path.realpath(sys.base_prefix)


def test_another_implementation_and_free_threaded_builds_are_left_out(tmp_path: Path) -> None:
    assert ask(script(tmp_path / "python3.13", """echo '["CPython", "3.13.1", "/py", "/", "t"]'""")) is None
    assert ask(script(tmp_path / "python3.12", """echo '["CPython", "3.12.1", "/py", "/", ""]'""")) is not None
    assert ask(script(tmp_path / "python3", """echo '["PyPy", "3.10.14", "/pypy", "/", ""]'""")) is None


def test_a_shim_that_hangs_is_killed_with_its_children_in_bounded_time(tmp_path: Path) -> None:
    hangs = script(tmp_path / "python3.8", f"sleep 36000 & echo $! > {tmp_path}/child; wait")
    started = time.monotonic()
    assert ask_all([hangs], timeout=0.5) == []
    assert time.monotonic() - started < patience(20)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + patience(20)
    while Path(f"/proc/{child}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{child}/cmdline").read_bytes():  # a zombie waiting for init
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_path_entries_are_looked_through_but_not_pyenvs_shims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "pyenv" / "shims" / "python3.8", f"touch {tmp_path}/shim-was-run; exit 127")
    script(tmp_path / "bin" / "python3.9", f"touch {tmp_path}/path-was-run; exit 127")
    script(tmp_path / "bin" / "python3.9-config", f"touch {tmp_path}/config-was-run")
    script(tmp_path / "pyenv" / "versions" / "3.8.1" / "bin" / "python", f"touch {tmp_path}/version-was-run; exit 1")
    folders = [tmp_path / "absent", tmp_path / "pyenv" / "shims", tmp_path / "bin"]
    monkeypatch.setenv("PATH", os.pathsep.join([*map(str, folders), "/usr/bin", "/bin"]))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert find_interpreters()[0].version == HERE
    ran = {path.name for path in tmp_path.glob("*-was-run")}
    assert ran == {"path-was-run", "version-was-run"}


def test_one_per_prefix_and_new_before_old() -> None:
    answers = [
        (Interpreter(Path("/a/python"), "3.9.1"), "/a"),
        (Interpreter(Path("/b/python3"), "3.8.18"), "/b"),
        (Interpreter(Path("/a/python3.9"), "3.9.1"), "/a"),
        (Interpreter(Path("/c/python3"), "3.13.0"), "/c"),
    ]
    assert [str(item.path) for item in distinct(answers)] == ["/a/python", "/c/python3", "/b/python3"]


def test_the_answer_is_kept_within_the_process() -> None:
    assert find_interpreters() is find_interpreters()
    assert interpreters.current().version == HERE
