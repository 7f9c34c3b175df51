"""``bncheck watch``: the user's command runs as it would, and what its layers live through is recorded and read."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from at_the_prompt import bncheck
from watched_lives import KEEP, SCRIPTS, lives_of, record, torch_python

from bncheck.errors import RunFolderError
from bncheck.life import Life
from bncheck.run_folder.lives import FOLDER, read_lives
from bncheck.subjects.launch import environment, launch
from bncheck.subjects.watched import missed, targets_of

# One process answers most questions: each line of it is a small program with a layer or network of its own.
PROGRAM = """
import copy, warnings
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)


def two_forwards(layer, *shape):
    net = nn.Sequential(layer)
    for _ in range(2):
        net(torch.randn(*shape))
    return net


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=0.25, eps=0.5)

    def forward(self, x):
        return self.norm(x)


class Odd(nn.Module):  # a running mean and variance that no name gives away
    def __init__(self):
        super().__init__()
        self.register_buffer("a", torch.zeros(1, 4))
        self.register_buffer("b", torch.ones(1, 4))

    def forward(self, x):
        mean, var = x.mean(0, keepdim=True), x.var(0, unbiased=False, keepdim=True)
        self.a += 0.3 * (mean - self.a)
        self.b += 0.3 * (var - self.b)
        return (x - mean) / torch.sqrt(var + 1e-5)


class Deviation(Odd):
    def __init__(self):
        nn.Module.__init__(self)
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_std", torch.ones(4))

    def forward(self, x):
        return (x - self.running_mean) / self.running_std


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.BatchNorm1d(3)]

    def forward(self, x):
        return self.hidden[0](x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.BatchNorm1d(3)
        self.two = self.one

    def forward(self, x):
        return self.two(self.one(x))


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.BatchNorm1d(3)

    def forward(self, x):
        self.inner(x)
        raise ValueError("the user's own")


class After(nn.Module):
    def __init__(self):
        super().__init__()
        self.later = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.later(x)


literal = Plain()
literal(torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 4.0]]))  # 1: means 1, 1, 3, biased variances 1, 0, 1
literal.eval()  # line 78
with torch.no_grad():
    literal(torch.zeros(4, 3))
two_forwards(Odd(), 8, 4)
two_forwards(Deviation(), 8, 4)
two_forwards(nn.InstanceNorm1d(5, track_running_stats=True), 2, 5, 6)
two_forwards(nn.LazyBatchNorm1d(), 8, 6)
two_forwards(nn.BatchNorm1d(7, track_running_stats=False), 8, 7)
Listed()(torch.randn(4, 3))
Twice()(torch.randn(4, 3))
try:
    Fails()(torch.randn(4, 3))
except ValueError:
    pass
After()(torch.randn(4, 3))
jumping = two_forwards(nn.BatchNorm1d(8), 8, 8)
jumping.load_state_dict({"0.weight": torch.ones(8), "0.running_mean": torch.full((8,), 5.0)}, strict=False)  # line 96
jumping(torch.randn(8, 8))
with torch.no_grad():
    jumping[0].running_var.fill_(9.0)
jumping(torch.randn(8, 8))
frozen = two_forwards(nn.BatchNorm1d(9), 8, 9)
frozen.requires_grad_(False)  # line 102
frozen(torch.randn(8, 9))
poisoned = nn.Sequential(nn.BatchNorm1d(10))
x = torch.randn(8, 10)
poisoned(x)
x[0, 0] = float("inf")
poisoned(x)
copied = copy.deepcopy(poisoned)  # line 109
traced = two_forwards(nn.BatchNorm1d(11), 8, 11)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.jit.trace(traced.eval(), torch.randn(8, 11))  # line 113
compiled = nn.Sequential(nn.BatchNorm1d(12))
torch.compile(compiled, fullgraph=True, backend="eager")(torch.randn(8, 12))
nn.BatchNorm1d(13)(input=torch.randn(8, 13))
with torch.autocast("cpu", dtype=torch.bfloat16):
    nn.Sequential(nn.Linear(3, 14), nn.BatchNorm1d(14))(torch.randn(8, 3))
"""


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(PROGRAM)
    ended, (found,) = record(folder, "-W", "error", str(folder / "program.py"))
    assert ended.code == 0
    return found


def of_width(life: Life, channels: int):  # type: ignore[no-untyped-def]
    (found,) = [layer for layer in life.layers if layer.channels == channels]
    return found


def test_a_moment_holds_what_went_in_and_what_came_out(life: Life) -> None:
    layer = life.layer("norm")
    at = layer.moments
    assert (layer.kind, layer.channels, layer.own, layer.registered) == ("BatchNorm1d", 3, False, True)
    assert at["index"].tolist() == [0, 1]
    assert at["training"].tolist() == [1, 0]
    assert at["gradients"].tolist() == [1, 0]
    assert at["n"].tolist() == [2, 4]
    assert at["input_mean"].tolist() == [[1, 1, 3], [0, 0, 0]]
    assert at["input_var"].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert at["mean_before"].tolist() == [[0, 0, 0], [0.25, 0.25, 0.75]]
    assert at["mean_after"][0].tolist() == [0.25, 0.25, 0.75]
    assert at["var_after"][0].tolist() == [1.25, 0.75, 1.25]  # 0.75 + 0.25 · unbiased
    assert at["counter_before"].tolist() == [0, 1]
    assert (at["eps"].tolist(), at["momentum"].tolist()) == ([0.5, 0.5], [0.25, 0.25])
    np.testing.assert_allclose(at["used_mean"][0], [1, np.nan, 3], rtol=1e-6)
    np.testing.assert_allclose(at["used_invstd"][0], [1.5**-0.5, np.nan, 1.5**-0.5], rtol=1e-6)
    assert at["input_bad"].tolist() == at["output_bad"].tolist() == [0, 0]


def test_spans_say_from_which_line_a_forward_was_called(life: Life) -> None:
    first, second = life.layer("norm").spans
    assert (first.training, first.forwards, first.n, first.moved, first.input_dtype) == (True, 1, (2, 2), 1, "float32")
    assert (second.training, second.gradients, second.n, second.moved) == (False, False, (4, 4), 0)
    assert first.called_from is not None
    assert PROGRAM.splitlines()[first.called_from.line - 1].startswith("literal(torch.tensor")


def happened(life: Life, what: str, layer: str = ""):  # type: ignore[no-untyped-def]
    return [each for each in life.happenings if each.what == what and (not layer or layer in each.layers)]


def line_of(each) -> str:  # type: ignore[no-untyped-def]
    return PROGRAM.splitlines()[each.where.line - 1]


def test_who_set_the_mode_is_told_with_the_line(life: Life) -> None:
    (found,) = happened(life, "eval", "norm")
    assert line_of(found).startswith("literal.eval()")
    assert (found.index, found.detail["module"]) == (1, "Plain")


def test_a_layer_of_ones_own_is_known_by_how_its_buffers_move(life: Life) -> None:
    layer = of_width(life, 4)
    assert (layer.kind, layer.own, layer.forwards) == ("Odd", True, 2)
    at = layer.moments
    np.testing.assert_allclose(
        at["mean_after"], at["mean_before"] + 0.3 * (at["input_mean"] - at["mean_before"]), rtol=1e-5
    )


def test_a_running_deviation_is_no_variance(life: Life) -> None:
    assert "Deviation" not in {layer.kind for layer in life.layers}
    assert any(remark.startswith("Deviation keeps a running standard deviation") for remark in life.remarks)


@pytest.mark.parametrize(("channels", "kind", "tracks"), [
    (5, "InstanceNorm1d", True), (6, "BatchNorm1d", True), (7, "BatchNorm1d", False), (13, "BatchNorm1d", True),
])  # fmt: skip
def test_each_kind_of_layer_is_followed(life: Life, channels: int, kind: str, tracks: bool) -> None:
    layer = of_width(life, channels)
    assert (layer.kind, layer.tracks, layer.forwards) == (kind, tracks, 1 if channels == 13 else 2)


def test_a_layer_in_a_list_is_not_registered(life: Life) -> None:
    (layer,) = [each for each in life.layers if each.registered is False]
    assert layer.name.startswith("BatchNorm1d#")
    assert layer.names == ()


def test_a_layer_at_two_places_has_two_names(life: Life) -> None:
    layer = life.layer("one")
    assert (layer.names, layer.forwards, layer.spans[0].most_per_step) == (("one", "two"), 2, 2)


def test_an_error_in_a_forward_does_not_put_the_next_model_inside_it(life: Life) -> None:
    assert life.layer("inner").forwards == 1
    layer = life.layer("later")
    assert layer.registered is True
    assert PROGRAM.splitlines()[layer.spans[0].called_from.line - 1].startswith("After()")


def test_loading_is_told_with_the_keys_of_normalising_layers_and_the_jump_points_to_it(life: Life) -> None:
    layer = of_width(life, 8)
    (load,) = happened(life, "load", layer.name)
    assert line_of(load).startswith("jumping.load_state_dict")
    assert load.detail["missing"] == ["0.bias", "0.running_var", "0.num_batches_tracked"]
    loaded, by_hand = happened(life, "jump", layer.name)
    assert (loaded.detail["quantity"], loaded.detail["by"]) == ("running_mean", "load")
    assert loaded.detail["largest"] == pytest.approx(5.0, abs=0.5)
    assert line_of(loaded).startswith("jumping.load_state_dict")
    assert (by_hand.detail["quantity"], by_hand.detail["by"], by_hand.where) == ("running_var", "", None)


def test_freezing_is_told_with_the_line(life: Life) -> None:
    layer = of_width(life, 9)
    (found,) = happened(life, "requires_grad", layer.name)
    assert line_of(found).startswith("frozen.requires_grad_")
    assert (found.detail["value"], layer.trainable) == (False, False)


def test_the_birth_of_poison_says_that_the_input_brought_it(life: Life) -> None:
    layer = of_width(life, 10)
    (found,) = happened(life, "nonfinite", layer.name)
    assert (found.detail["in"], found.detail["born"], found.index) == ("input", False, layer.spans[0].first_index + 1)
    assert layer.moments["input_bad"].tolist() == [0, 1]


def test_copies_and_exports_are_told_with_the_line(life: Life) -> None:
    (copied,) = happened(life, "copy")
    assert line_of(copied).startswith("copied = copy.deepcopy")
    exports = {each.detail["by"]: line_of(each).strip() for each in happened(life, "export")}
    assert exports["torch.jit.trace"].startswith("torch.jit.trace(traced")
    assert exports["torch.compile"].startswith("torch.compile(compiled, fullgraph=True")
    assert of_width(life, 11).forwards == 2  # the tracer's own forward is none
    assert of_width(life, 12).forwards == 1


def test_autocast_shows_in_the_dtype_of_the_input(life: Life) -> None:
    layer = of_width(life, 14)
    assert layer.spans[0].input_dtype == "bfloat16"
    assert layer.dtypes["running_mean"] == "float32"


def test_the_life_says_whose_it_is_and_how_it_ended(life: Life) -> None:
    assert (life.program, life.framework, life.rank, life.world, life.code) == ("program.py", "torch", 0, 1, 0)
    assert life.version.startswith("2.")
    (target,) = targets_of((life,))
    assert (target.device, target.python.split(".")[0], {layer.device for layer in life.layers}) == (
        "cpu",
        "3",
        {"cpu"},
    )
    assert happened(life, "end")


# ------------------------------------------------------------------------------------------ as it would run anyway

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
    states = (json.loads(path.read_text()) for path in run.glob(f"{FOLDER}/*/state.json"))
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
import os, resource, signal, sys
import torch
torch.set_num_threads(1)
net = torch.nn.Sequential(torch.nn.Linear(4, 400), torch.nn.BatchNorm1d(400))
optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
if sys.argv[1] == "full":
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for _ in range(45):
    net(torch.randn(8, 4)).pow(2).sum().backward()
    optimiser.step()
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_counts_on_disk_are_no_older_than_the_moments_beside_them(tmp_path: Path) -> None:
    """A program may end within the two seconds of the first flush: 41 moments lay beside one forward."""
    ended = launch([str(torch_python()), "-c", SUDDEN, "kill"], tmp_path, KEEP, None)
    assert ended.signal == signal.SIGKILL
    (life,) = read_lives(tmp_path, {ended.pid: -ended.signal})
    (layer,) = life.layers
    kept = layer.moments["index"]
    assert len(kept) > 20
    assert layer.forwards >= len(kept)
    assert life.steps >= max(layer.moments["step"])


def test_a_recording_that_the_disk_has_no_room_for_is_no_model_without_layers(tmp_path: Path) -> None:
    ended = launch([str(torch_python()), "-c", SUDDEN, "full"], tmp_path, KEEP, None)
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


def test_the_recorder_writes_without_the_module_json(tmp_path: Path) -> None:
    """Its rows are JSON that json reads back, whatever json means in the program."""
    program = """
import sys, types
import torch
sys.modules["json"] = types.ModuleType("json")
layer = torch.nn.BatchNorm1d(2)
odd = "n\\u00e4h\\"\\n\\U0001f600.running_mean"
layer.load_state_dict(dict(layer.state_dict(), **{odd: torch.ones(1)}), strict=False)
layer(torch.randn(4, 2))
"""
    ended, (life,) = record(tmp_path, "-c", program)
    assert ended.code == 0
    (load,) = happened(life, "load")
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


def test_an_error_in_the_recorder_is_a_remark_and_the_program_goes_on(tmp_path: Path) -> None:
    """Its folder goes away while it runs."""
    code = """
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
    ended, (life,) = record(tmp_path, "-c", code)
    assert ended.code == 0
    assert life.remarks == ("The recorder stopped at leave: OSError: no space left on device",)
    assert life.forwards == 1


def test_two_ranks_are_two_lives(tmp_path: Path) -> None:
    first, second = lives_of("healthy/ddp", tmp_path)
    assert [(life.rank, life.world) for life in (first, second)] == [(0, 2), (1, 2)]
    assert [layer.name for layer in second.layers] == ["1", "4"]
    assert not happened(first, "jump")
    assert {each.detail["by"] for each in happened(second, "jump")} == {"broadcast"}


def test_recomputation_is_seen_as_such(tmp_path: Path) -> None:
    (life,) = lives_of("faulty/recomputed", tmp_path)
    forward, again = life.layer("body.1").spans
    assert (forward.in_backward, forward.forwards, forward.moved) == (False, 80, 80)
    assert (again.in_backward, again.forwards, again.moved) == (True, 80, 80)


def test_processes_without_a_layer_leave_nothing_and_children_are_lives_of_their_own(tmp_path: Path) -> None:
    code = """
import subprocess, sys, torch
from torch.utils.data import DataLoader
from torch import nn
layer = nn.BatchNorm1d(2)
for x in DataLoader(torch.randn(8, 2), batch_size=4, num_workers=2):
    layer(x)
child = "import torch; torch.nn.BatchNorm1d(3)(torch.randn(4, 3))"
sys.exit(subprocess.run([sys.executable, "-c", child]).returncode)
"""
    ended, lives = record(tmp_path, "-c", code)
    assert ended.code == 0
    assert sorted(life.layers[0].channels for life in lives) == [2, 3]


# ------------------------------------------------------------------------------------------------- the command


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
    (["python", "-I", "-c", "import torch"], 3, "it comes by PYTHONPATH, which python -I and -E ignore"),
    (["python", "-c", "print(1)"], 3, "imported no framework"),
    (["python", "-c", "import torch"], 3, "no layer that normalises by running statistics was seen to run"),
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


def test_nobody_at_a_terminal_sees_no_line(tmp_path: Path) -> None:
    words = ["watch", "--out", str(tmp_path / "run"), "--", str(torch_python()), "-c", SLOW.replace("0.6", "0")]
    assert "\x1b" not in bncheck(*words).stderr


# ------------------------------------------------------------------------------------------- untrusted recordings


def recording(tmp_path: Path) -> Path:
    """The smallest that is one: a layer of two channels, one forward."""
    place = tmp_path / FOLDER / "12-0"
    place.mkdir(parents=True)
    about = {"framework": "torch", "version": "2.13.0", "program": "a.py", "command": ["a.py"], "pid": 12}
    (place / "about.json").write_text(json.dumps(about))
    span = {
        "span": 0, "first_index": 0, "last_index": 0, "first_step": 0, "last_step": 0, "forwards": 1, "training": True,
        "in_backward": False, "gradients": True, "n": [4, 4], "input_dtype": "float32", "moved": 1, "most_per_step": 1,
        "called_from": ["/a.py", 3, "f"],
    }  # fmt: skip
    (place / "state.json").write_text(json.dumps({"steps": 1, "forwards": 1, "left_out": 0, "spans": [span]}))
    layer = {"layer": 0, "name": "bn", "kind": "BatchNorm1d", "channels": 2}
    (place / "log.jsonl").write_text(json.dumps(layer) + "\n")
    np.savez(place / "first-0-000000.npz", **{"0/index": np.array([0]), "0/input_mean": np.zeros((1, 2))})
    return place


def test_a_recording_that_a_kill_cut_off_is_read(tmp_path: Path) -> None:
    place = recording(tmp_path)
    with (place / "log.jsonl").open("a") as log:
        log.write('{"what": "tra')
    (place / "last-0-000000.npz.part").write_bytes(b"PK")
    (life,) = read_lives(tmp_path)
    assert life.layer("bn").moments["input_mean"].tolist() == [[0, 0]]
    assert life.code is None


@pytest.mark.parametrize(("name", "content", "words"), [
    ("state.json", "[]", "cannot be used"),
    ("about.json", "{", "cannot be read"),
    ("log.jsonl", "7\n", "is no line of a recording"),
    ("log.jsonl", '{"layer": -1, "name": "bn", "kind": "", "channels": 2}\n', "cannot be used"),
    ("first-0-000000.npz", "PK", "is damaged"),
])  # fmt: skip
def test_an_edited_recording_is_a_sentence(tmp_path: Path, name: str, content: str, words: str) -> None:
    (recording(tmp_path) / name).write_text(content)
    with pytest.raises(RunFolderError, match=words):
        read_lives(tmp_path)


def test_arrays_of_another_shape_and_pickled_ones_are_refused(tmp_path: Path) -> None:
    place = recording(tmp_path)
    np.savez(place / "first-0-000000.npz", **{"0/index": np.array([0]), "0/input_mean": np.zeros((1, 3))})
    with pytest.raises(RunFolderError, match=r"the shape \(1, 3\) and not \(1, 2\)"):
        read_lives(tmp_path)
    np.savez(place / "first-0-000000.npz", **{"0/index": np.array([{}], dtype=object)})
    with pytest.raises(RunFolderError, match="pickled"):
        read_lives(tmp_path)
