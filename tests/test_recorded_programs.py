"""A recorded program runs as it would anyway, and however it ends, what was recorded of it is read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from watched_lives import KEEP, SCRIPTS, Forks, happened, lives_of, record_apart, torch_python

from bncheck.run_folder.folder import WATCHED
from bncheck.run_folder.lives import read_lives
from bncheck.subjects.launch import environment, launch
from bncheck.subjects.watched import missed

TRAINING = """
import hashlib, random, sys
import numpy, torch
sys.path.insert(0, sys.argv[1])
from parts import batches, network, train_step
torch.manual_seed(0)
net = network()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
net.train()
for x, y in batches(70):
    train_step(net, optimiser, x, y)
found = hashlib.sha256()
for value in net.state_dict().values():
    found.update(value.numpy().tobytes())
print(found.hexdigest(), torch.rand(1).item(), random.random() != 2, sys.argv[2:], sys.stdin.read())
sys.exit(int(sys.argv[2]))
"""


def test_training_gives_the_same_bits_and_the_same_exit_code(tmp_path: Path) -> None:
    command = [str(torch_python()), "-c", TRAINING, str(SCRIPTS), "7", "a b"]
    outcomes = []
    for variables in (None, environment(tmp_path, KEEP, None, None), environment(tmp_path, "all", None, None)):
        done = subprocess.run(command, env=variables, input="stdin", capture_output=True, text=True, check=False)
        outcomes.append((done.returncode, done.stdout, done.stderr))
    assert outcomes[0][0] == 7
    assert outcomes[0][1].endswith("stdin\n")
    assert outcomes[0] == outcomes[1] == outcomes[2]
    few, whole = read_lives(tmp_path)
    assert {len(few.layers[0].moments["index"]), len(whole.layers[0].moments["index"])} >= {70}


def steps_on_disk(run: Path) -> int:
    states = (json.loads(path.read_text()) for path in run.glob(f"{WATCHED}/*/state.json"))
    return max((int(state["steps"]) for state in states), default=0)


def test_a_killed_process_leaves_what_it_recorded(tmp_path: Path) -> None:
    code = TRAINING.replace("batches(70)", "batches(10**9)")
    command = [str(torch_python()), "-c", code, str(SCRIPTS), "0"]
    process = subprocess.Popen(command, env=environment(tmp_path, KEEP, None, None))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and steps_on_disk(tmp_path) < 50:
        time.sleep(0.05)
    process.kill()
    process.wait()
    (life,) = read_lives(tmp_path, {process.pid: -signal.SIGKILL})
    assert life.code is None
    assert not happened(life, "end")
    assert life.steps >= 50
    assert {"1", "4"} == {layer.name for layer in life.layers}
    assert len(life.layers[0].moments["index"]) >= 50


SUDDEN = """
import os, signal
import torch
torch.set_num_threads(1)
net = torch.nn.Sequential(torch.nn.Linear(4, 400), torch.nn.BatchNorm1d(400))
optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
for _ in range(45):
    net(torch.randn(8, 4)).pow(2).sum().backward()
    optimiser.step()
os.kill(os.getpid(), signal.SIGKILL)
"""
FULL = """
import resource, sys
import torch
sys.dont_write_bytecode = True
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
layer = torch.nn.BatchNorm1d(400)
for _ in range(45):
    layer(torch.randn(8, 400))
"""
NO_JSON = """
import sys, types
import torch
sys.modules["json"] = types.ModuleType("json")
layer = torch.nn.BatchNorm1d(2)
odd = "n\\u00e4h\\"\\n\\U0001f600.running_mean"
layer.load_state_dict(dict(layer.state_dict(), **{odd: torch.ones(1)}), strict=False)
layer(torch.randn(4, 2))
"""
BROKEN = """
import os, shutil, torch
layer = torch.nn.BatchNorm1d(2)
layer(torch.randn(4, 2))
import bncheck_watching_recorder as recorder
def broken(*arguments):
    raise OSError("no space left on device")
real = recorder.Recorder.forward
recorder.Recorder.forward = broken
layer(torch.randn(4, 2))
recorder.Recorder.forward = real
layer(torch.randn(4, 2))
print(int(layer.num_batches_tracked))
"""
PARENT = """
import subprocess, sys, torch
from torch.utils.data import DataLoader
from torch import nn
layer = nn.BatchNorm1d(2)
for x in DataLoader(torch.randn(8, 2), batch_size=4, num_workers=2):
    layer(x)
child = "import torch; torch.nn.BatchNorm1d(3)(torch.randn(4, 3))"
sys.exit(subprocess.run([sys.executable, "-c", child]).returncode)
"""


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Forks:
    """Each of these by itself; what imports nothing but PyTorch need not import it again."""
    folder, places = tmp_path_factory.mktemp("apart"), []
    for name, code in {"sudden": SUDDEN, "no_json": NO_JSON, "broken": BROKEN, "parent": PARENT}.items():
        places.append(folder / f"{name}.py")
        places[-1].write_text(code, encoding="utf-8")
    return record_apart(folder / "run", *places, SCRIPTS / "faulty" / "recomputed.py")


def test_counts_on_disk_are_no_older_than_the_moments_beside_them(apart: Forks) -> None:
    """A program may end within the two seconds of the first flush: 41 moments lay beside one forward."""
    life = apart.life("sudden.py", -signal.SIGKILL)
    (layer,) = life.layers
    kept = layer.moments["index"]
    assert len(kept) > 20
    assert layer.forwards >= len(kept)
    assert life.steps >= max(layer.moments["step"])


def test_a_recording_that_the_disk_has_no_room_for_is_no_model_without_layers(tmp_path: Path) -> None:
    ended = launch([str(torch_python()), "-c", FULL], tmp_path, KEEP, None)
    assert ended.code == 0
    said = missed(read_lives(tmp_path, {ended.pid: 0}), ended)
    assert said[0].sentence.startswith("Nothing was recorded: the recorder could not write (OSError")


@pytest.mark.parametrize("place", ["beside", "path"])
def test_files_of_the_user_that_have_names_of_the_library_are_theirs_alone(tmp_path: Path, place: str) -> None:
    """A json.py that is a script of its own ended the command: the recorder had imported it."""
    folder = tmp_path / ("program" if place == "beside" else "path")
    folder.mkdir()
    (folder / "json.py").write_text("import sys; print('theirs'); sys.exit(3)")
    (tmp_path / "program").mkdir(exist_ok=True)
    (tmp_path / "program" / "train.py").write_text("print('trained')\ntry:\n    import json\nexcept SystemExit: pass\n")
    variables = dict(os.environ, PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path / "path")]))
    words = [sys.executable, "-m", "bncheck", "watch", "-q", "--out", str(tmp_path / "run"), "--"]
    words += [sys.executable, str(tmp_path / "program" / "train.py")]
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    assert done.stdout == "trained\ntheirs\n", done.stderr
    assert "Traceback" not in done.stderr


def test_the_recorder_writes_without_the_module_json(apart: Forks) -> None:
    """Its rows are JSON that json reads back, whatever json means in the program."""
    (load,) = happened(apart.life("no_json.py"), "load")
    assert load.detail["unexpected"] == ['n\u00e4h"\n\U0001f600.running_mean']


def test_the_sitecustomize_of_the_user_runs_too(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('theirs', __name__, __file__)")
    variables = environment(tmp_path, KEEP, None, None)
    variables["PYTHONPATH"] += os.pathsep + str(tmp_path / "site")
    code = "import sys, sitecustomize; print(sitecustomize.__file__); print([p for p in sys.path if 'attach' in p])"
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    path = str(tmp_path / "site" / "sitecustomize.py")
    assert done.stdout.splitlines() == [f"theirs sitecustomize {path}", path, "[]"]


def test_without_a_sitecustomize_there_is_none(tmp_path: Path) -> None:
    code = "import sitecustomize"
    variables = environment(tmp_path, KEEP, None, None)
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=variables, capture_output=True, text=True, check=False
    )
    assert "ModuleNotFoundError" in done.stderr or "ImportError" in done.stderr
    assert subprocess.run([sys.executable, "-c", "1"], env=variables, capture_output=True, check=True).stderr == b""


def test_an_error_in_the_recorder_is_a_remark_and_the_program_goes_on(apart: Forks) -> None:
    life = apart.life("broken.py")
    assert life.remarks == ("The recorder stopped at leave: OSError: no space left on device",)
    assert life.forwards == 1


def test_two_ranks_are_two_lives(tmp_path: Path) -> None:
    first, second = lives_of("healthy/ddp", tmp_path)
    assert [(life.rank, life.world) for life in (first, second)] == [(0, 2), (1, 2)]
    assert [layer.name for layer in second.layers] == ["1", "4"]
    assert not happened(first, "jump")
    assert {each.detail["by"] for each in happened(second, "jump")} == {"broadcast"}


def test_recomputation_is_seen_as_such(apart: Forks) -> None:
    forward, again = apart.life("recomputed.py").layer("body.1").spans
    assert (forward.in_backward, forward.forwards, forward.moved) == (False, 80, 80)
    assert (again.in_backward, again.forwards, again.moved) == (True, 80, 80)


def test_processes_without_a_layer_leave_nothing_and_children_are_lives_of_their_own(apart: Forks) -> None:
    """Neither what loads data nor the process that all were forked from is one."""
    assert [layer.channels for layer in apart.life("parent.py").layers] == [2]
    assert [layer.channels for life in apart.others() for layer in life.layers] == [3]
