"""Code of the user's that attacks whoever plays it: functions (``apply``), own layers of Keras, a file that is imported
in a forked process. Each loses what it attacked in, and never the host or what was played beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from at_the_prompt import bncheck
from patience import patience
from test_checkpoints import python_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TESTS = Path(__file__).parent
SLEEP = f"78.{os.getpid()}"  # seconds that children sleep: tells them from anybody else's
FUNCTIONS = """title = "attacks"
why = "each is called with a network"
[network]
model = "evil_functions.py:build"
[input]
shape = [4, 3, 8, 8]
[program]
events = ["forward", { apply = "evil_functions.py:harmless" }, "forward", "eval_forward"]
[matrix]
call = [
"""
ROW = (
    '{ "network.model" = "evil_functions.py:build",'
    ' "program.events" = ["forward", { apply = "evil_functions.py:NAME" }, "forward", "eval_forward"] },\n'
)
LAYERS = """title = "attacks"
why = "each is built and played"
[network]
custom = "evil_layers.py:Harmless"
layers = [{ name = "bn", type = "batch_norm" }]
[input]
shape = [4, 4, 3, 3]
[program]
events = ["train_forward", "backward", "eval_forward"]
[matrix]
"network.custom" = [
"""
THINGS = (
    "replies garbage", "replies ghost", "replies endless", "forges", "answers [1]", "answers {}",
    'answers {"kind": "layer"}', "answers pipe", "answers device", "output pipe", "output device", "output nothing",
    "kills nursery", "kills guard", "stops", "removes", "children",
)  # fmt: skip


def names_in(file: str, pattern: str) -> list[str]:
    return re.findall(pattern, (TESTS / file).read_text())


def play(folder: Path, name: str, text: str, target: str, file: str) -> list[dict[str, Any]]:
    """The target's cells; nothing else may have been harmed."""
    (folder / name).write_text(text)
    (folder / file).write_bytes((TESTS / file).read_bytes())
    words = ("run", name, "-t", target, "--no-probe", "--no-report", "-q", "--timeout", "20", "--out", "run")
    done = bncheck(*words, cwd=folder)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.returncode in (1, 3), done.stderr
    assert {path.name for path in folder.iterdir()} == {name, file, "run"}
    found = json.loads((folder / "run" / "run.json").read_text())
    return [cell for cell in found["cells"] if cell["target"] == target]


def test_a_function_that_attacks_costs_its_cell(tmp_path: Path) -> None:
    python_of("torch")
    names = names_in("evil_functions.py", r"(?m)^def (\w+)\(net\)")
    rows = "".join(ROW.replace("NAME", name) for name in names)
    cells = play(tmp_path, "attacks.toml", f"{FUNCTIONS}{rows}]\n", "torch", "evil_functions.py")
    outcomes = dict(zip(names, (cell["outcome"] for cell in cells), strict=True))
    assert outcomes["harmless"] == outcomes["harmless_at_the_end"] == "ok"
    assert outcomes["exits"] == outcomes["base"] == "crashed"
    assert {name for name, outcome in outcomes.items() if outcome == "timeout"} == {"endless"}


def test_a_layer_of_keras_that_attacks_costs_its_cell(tmp_path: Path) -> None:
    python_of("keras")
    names = names_in("evil_layers.py", r"(?m)^class (\w+)[(:]")
    names.remove("MakesSeven")
    rows = "".join(f'"evil_layers.py:{name}",\n' for name in names)
    cells = play(tmp_path, "attacks.toml", f"{LAYERS}{rows}]\n", "keras", "evil_layers.py")
    outcomes = dict(zip(names, (cell["outcome"] for cell in cells), strict=True))
    assert outcomes["Harmless"] == outcomes["HarmlessAtTheEnd"] == "ok"
    assert outcomes["Exits"] == "crashed" and outcomes["ExitsAsPythonDoes"] == "raised"


@pytest.mark.parametrize("attack", THINGS)
def test_a_file_that_attacks_when_it_is_imported_ends_in_a_sentence(attack: str, tmp_path: Path) -> None:
    words = ("check", f"{TESTS / 'evil_thing.py'}:Layer", "--python", str(python_of("torch")), "--no-report")
    seconds = patience(20.0)
    done = bncheck(
        *words, "--timeout", f"{seconds:g}", "--out", "run", cwd=tmp_path, EVIL=attack, EVIL_SLEEP=SLEEP
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.returncode == (0 if attack == "children" else 3), done.stdout + done.stderr
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"sleep {SLEEP}" not in listed
