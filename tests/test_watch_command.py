"""``bncheck watch`` at the prompt: the user's command in its place, the run folder, and how far it is."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from at_the_prompt import bncheck
from watched_lives import SCRIPTS, torch_python


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("watched") / "run"
    script = str(SCRIPTS / "healthy" / "train_and_evaluate.py")
    return folder, bncheck("watch", "--python", str(torch_python()), "--out", str(folder), "--", "python", script)


def test_watch_writes_a_run_folder_and_leaves_stdout_to_the_command(
    watched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = watched
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("epoch 0: accuracy")
    assert len(done.stdout.splitlines()) == 4
    answer = json.loads((folder / "answer.json").read_text())
    assert answer["verb"] == "watch"
    assert answer["headline"] == "2 layers, 160 steps: nothing wrong was seen"
    assert answer["rows"][0]["layer"] == "1"
    assert dict(zip(answer["columns"], answer["rows"][0]["cells"], strict=True)) == {
        "kind": "BatchNorm2d", "forwards": "200", "training": "160", "eval": "40", "n": "1,024", "moved": "160",
        "jumps": "",
    }  # fmt: skip
    assert (folder / "index.html").is_file()


@pytest.mark.parametrize(("command", "code", "words"), [
    (["python", "-I", "-c", "print(1)"], 3, "it comes by PYTHONPATH, which python -I and -E ignore"),
    (["python", "-c", "print(1)"], 3, "imported no framework"),
    (["python", "-c", "import torch"], 3,
     "no layer that normalises by running statistics was seen to run. → nothing is to be done if the model has none; "
     "what torch.jit.trace or jax.jit compiled is not seen, nor a model that calls torch.nn.functional.batch_norm "),
    (["python", "-c", "raise SystemExit(5)"], 5, "the command itself ended with exit code 5; that is the exit code."),
    (["nothing-of-this-name"], 2, "There is no program 'nothing-of-this-name' to watch."),
])  # fmt: skip
def test_nothing_recorded_is_said_with_its_reason(tmp_path: Path, command: list[str], code: int, words: str) -> None:
    done = bncheck("watch", "--python", str(torch_python()), "--out", str(tmp_path / "run"), "--", *command)
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_ctrl_c_reaches_the_command_and_bncheck_still_reports(tmp_path: Path) -> None:
    code = """
import signal, time, torch
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.nn.BatchNorm1d(2)(torch.randn(4, 2))
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit(9)
"""
    words = [sys.executable, "-m", "bncheck", "watch", "-q", "--out", str(tmp_path / "run"), "--"]
    words += [str(torch_python()), "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 9
    assert (tmp_path / "run" / "answer.json").is_file()


# --------------------------------------------------------------------------------------------------- the live line

SLOW = """
import time, torch
torch.set_num_threads(1)
net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
print("half a line", end="", flush=True)
for _ in range(12):
    net(torch.randn(8, 4)).pow(2).sum().backward()
    optimiser.step()
    time.sleep(0.6)
print(" and the rest", flush=True)
"""


def at_a_terminal(words: list[str]) -> str:
    """All that a command writes to a terminal of its own, where it is in the foreground."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", COLUMNS="100", PYTHONPATH=str(Path(__file__).parents[1]))
        os.execv(words[0], words)
    seen = b""
    while True:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # Linux: the other side is closed
            break
        if not more:
            break
        seen += more
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, seen
    return seen.decode()


def test_a_line_on_the_terminal_says_how_far_it_is_and_leaves_the_programs_words_whole(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bncheck", "watch", "--out", str(tmp_path / "run"), "--"]
    seen = at_a_terminal([*words, str(torch_python()), "-c", SLOW])
    lines = re.findall(r"\x1bD\x1bM\x1b7\x1bD\r\x1b\[2K\x1b\[\d+G(.*?)\x1b8", seen)
    assert lines
    assert all(re.fullmatch(r"step \d+ · 1 layer", line) for line in lines)
    assert "half a line and the rest" in re.sub(r"\x1bD\x1bM\x1b7.*?\x1b8", "", seen)


def test_nobody_at_a_terminal_sees_no_line(watched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    assert "\x1b" not in watched[1].stderr
