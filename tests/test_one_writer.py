"""One process writes into a run folder, and what it started ends with it, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from at_the_prompt import bncheck, command, environment
from left_by_cells import cells_of, processes, worker_processes
from patience import patience
from test_run import NAPPING, finished, start_and_wait_for_a_cell

from bncheck.environments.fork import CAN_FORK
from bncheck.playing.readied import RUNNER
from bncheck.run_folder.results import read_results

FAULTY, EVIL = (Path(__file__).parent / f"{name}_backend.py" for name in ("faulty", "evil"))


def gone_after(seconds: float, folder: Path) -> bool:
    deadline = time.monotonic() + seconds
    while worker_processes(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not worker_processes(folder)


def job_of(folder: Path, host: int) -> Path:
    """What a worker finds, but for the cells: it waits for them."""
    (folder / "cells" / "faulty").mkdir(parents=True)
    job = {"protocol": 1, "backend": str(FAULTY), "variant": "", "device": "cpu", "inputs": "../../inputs",
           "cases": "../../cases.jsonl", "memory_limit": None, "host": host}  # fmt: skip
    (folder / "cells" / "faulty" / "job.json").write_text(json.dumps(job))
    return folder / "cells" / "faulty"


def a_dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_worker_whose_host_died_before_it_asked_ends(tmp_path: Path) -> None:
    folder = job_of(tmp_path, a_dead_process())
    worker = subprocess.Popen([sys.executable, "-I", str(RUNNER), str(folder)])
    assert worker.wait(20) == 0
    assert not (folder / "environment.json").exists()


def test_a_worker_that_a_script_starts_for_its_host_ends_with_that_host(tmp_path: Path) -> None:
    """A shell between the two: the worker's parent lives on when the host is killed."""
    script = (
        "import os, subprocess, sys, json, pathlib\n"
        "job = pathlib.Path(sys.argv[3], 'job.json')\n"
        "job.write_text(json.dumps({**json.loads(job.read_text()), 'host': os.getpid()}))\n"
        "shell = 'trap : INT; \"$@\"; sleep 30'\n"
        "subprocess.run(['sh', '-c', shell, 'sh', *sys.argv[1:2], '-I', *sys.argv[2:]])"
    )
    folder = job_of(tmp_path, 0)
    host = subprocess.Popen([sys.executable, "-c", script, sys.executable, str(RUNNER), str(folder)])
    while not (folder / "environment.json").exists():
        assert host.poll() is None
        time.sleep(0.02)
    host.kill()
    host.wait()
    while any(str(RUNNER) in words for words in command_lines(folder) if "sh" not in words[:3]):
        time.sleep(0.02)


def command_lines(folder: Path) -> list[str]:
    found = [Path(f"/proc/{number}/cmdline") for number in worker_processes(folder)]
    return [path.read_bytes().replace(b"\0", b" ").decode() for path in found if path.exists()]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_the_other_signals_leave_what_an_interrupt_leaves(tmp_path: Path, sign: signal.Signals) -> None:
    out = tmp_path / "run"
    process = start_and_wait_for_a_cell(tmp_path, out)
    process.send_signal(sign)
    said, _ = process.communicate()
    assert process.returncode == 128 + sign, said
    assert f"go on with: bncheck run --resume {out}" in said
    assert 0 < len(read_results(out).cells) < 12
    assert gone_after(2.0, out)


def test_a_signal_in_the_middle_of_an_import_waits_for_its_end() -> None:
    """The exception would leave the lock of a module taken, which another thread waits for."""
    code = (
        "import importlib.abc, importlib.machinery, os, signal, sys, threading\n"
        "class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        return importlib.machinery.ModuleSpec(name, self) if name == 'slow' else None\n"
        "    def exec_module(self, module):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        module.whole = sum(range(100000)) > 0\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from bncheck.cli import ended_by_signals\n"
        "from bncheck.errors import Stopped\n"
        "try:\n"
        "    with ended_by_signals():\n"
        "        import slow\n"
        "        os.write(1, b'whole\\n' if slow.whole else b'half\\n')\n"  # at once: the signal comes again
        "        threading.Event().wait(10)\n"
        "except Stopped as stop:\n"
        "    print('stopped by', stop.number)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment())
    assert done.stdout == "whole\nstopped by 15\n", done.stderr


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_first_command_is_imported_is_a_line(sign: signal.Signals) -> None:
    first = (
        "import importlib.abc, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        os.kill(os.getpid(), {int(sign)}) if name == 'click' else None\n"
        "sys.meta_path.insert(0, Finder())"
    )
    done = bncheck("list", first=first)
    assert (done.returncode, done.stdout, done.stderr) == (128 + sign, "", "bncheck: interrupted\n")


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start_and_wait_for_a_cell(tmp_path, out)
    done = bncheck("run", "--resume", str(out), *NAPPING[3:])
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert done.returncode == 2
    assert re.search(
        rf"is being written by another bncheck \(process {process.pid}, since 20[0-9T:+-]+\)\.\n  → ", done.stderr
    )
    assert gone_after(2.0, out)
    done = bncheck("run", "--resume", str(out), *NAPPING[3:])
    assert done.returncode == 0, done.stderr
    assert len(finished(out)) == 12


def test_a_lock_whose_file_says_nonsense_is_a_lock(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "writer.json").write_text('{"process": "\x1b[31m"}')
    with (tmp_path / "run" / "writer.json").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = bncheck("run", "--resume", str(tmp_path / "run"))
    assert (done.returncode, "by another bncheck.\n" in done.stderr) == (2, True)


def test_what_a_worker_started_ends_when_the_host_is_killed(tmp_path: Path) -> None:
    out, seconds = tmp_path / "run", f"78.{os.getpid()}"
    words = command("run", "events", "-t", "evil_backend[kids stay]", "--no-reference", "--backend-file", str(EVIL),
                    "--no-probe", "--out", str(out))  # fmt: skip
    host = subprocess.Popen(words, env=environment(EVIL_SLEEP=seconds), stderr=subprocess.DEVNULL)
    while not processes(f"sleep\0{seconds}"):
        assert host.poll() is None
        time.sleep(0.02)
    host.kill()
    host.wait()
    deadline = time.monotonic() + 2
    while processes(f"sleep\0{seconds}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not processes(f"sleep\0{seconds}")


@pytest.mark.parametrize("threads", ["2", "1"])
def test_workers_that_have_just_started_end_with_their_host(threads: str, tmp_path: Path) -> None:
    """Killed while they import: what is resumed plays every cell once. With one thread each they are forks of the
    host, which only Linux has."""
    out = tmp_path / "run"
    words = command("run", "all-ones", "-t", "reference", "-t", "reference[batch_weight=0.9]", "--no-probe",
                    "--set", f"program.repeat={2 if threads == '2' else 2000}", "--no-report",
                    "--out", str(out))  # fmt: skip
    host = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=environment(OMP_NUM_THREADS=threads))
    forked = threads == "1" and CAN_FORK
    # They import before there is a folder that they could name; a fork is called like its host.
    later, count = (f"--out\0{out}\0", 3) if forked else (f"--later\0{host.pid}\0", 2)
    while len(processes(later)) < count or not (out / "plan.json").is_file():
        assert host.poll() is None
        time.sleep(0.001)
    host.kill()
    host.wait()
    assert gone_after(2.0, out)
    deadline = time.monotonic() + patience(2.0)
    while processes(later) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not processes(later)
    done = bncheck("run", "--resume", str(out), "--no-report", "-q")
    assert done.returncode == 0, done.stderr
    for target in (out / "cells").iterdir():
        assert len(cells_of(target)) == 2
