"""Whose an error is: the framework's, the user's file's, a package's that is not there, a backend file's, bncheck's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here
from test_scenario_file import HEAD, INPUT, NETWORK, PROGRAM, faults, load, only
from torch_cells import Cell, cases_of, play_cells, renamed

from bncheck.playing.workers import play
from bncheck.run_folder.cell import record_or_crash
from bncheck.scenario import Case
from bncheck.scenario_files.files import load_scenario
from bncheck.worker import blame

# --------------------------------------------------------------------------------- layers, played on real torch

LAYERS = """
import sys
import torch
from torch import nn

class Moves(nn.BatchNorm2d):
    def forward(self, x):
        super().forward(x)
        raise ValueError("not today")

class Ends(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + None

class Shape(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) @ torch.ones(3, 3)

class OneDimension(nn.BatchNorm1d):
    pass

class Exits(nn.BatchNorm2d):
    def forward(self, x):
        sys.exit(0)

class Unwritten(nn.Module):
    def __init__(self, channels):
        super().__init__()

class Lazy(nn.BatchNorm2d):
    def forward(self, x):
        import package_that_is_not_here

class NoState(nn.BatchNorm2d):
    @property
    def num_batches(self):
        return 1
    def __getattr__(self, name):
        if name == "momentum" and sys._getframe(1).f_code.co_name != "forward":
            raise KeyError("momentum is lost")
        return super().__getattr__(name)
    def __init__(self, channels, eps, momentum, affine):
        super().__init__(channels, eps=eps, affine=affine)
        del self.__dict__["momentum"]
    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        return nn.functional.batch_norm(x, mean, var, None, None, self.training, 0.3, self.eps)

class Counters(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.num_batches_tracked = torch.tensor([1, 2])
    def forward(self, x):
        return x

class Mask(nn.BatchNorm2d):
    def forward(self, x, mask):
        return super().forward(x)

class Ghost(nn.BatchNorm2d):
    def forward(self, x):
        if self.training and len(x) % 2:
            raise ValueError("odd batches are not for ghosts")
        return super().forward(x)

class Plain(nn.BatchNorm2d):
    pass

class Wrapped(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.inner = nn.BatchNorm2d(channels)
    def forward(self, x):
        return self.inner(x)

class Says(nn.BatchNorm2d):
    def forward(self, x):
        try:
            return super().forward(x)
        except ValueError as error:
            raise ValueError(str(error))
"""
# Class: (whose it is, words of the error).
RAISING = {
    "Moves": ("subject", 'not today [layers.py, line 9: raise ValueError("not today")]'),
    "Ends": ("subject", "[layers.py, line 13: return super().forward(x) + None]"),
    "Shape": ("subject", "[layers.py, line 17: return super().forward(x) @ torch.ones(3, 3)]"),
    "OneDimension": ("subject", "expected 2D or 3D input (got 4D input)"),
    "Exits": ("subject", "0 [layers.py, line 24: sys.exit(0)]"),
    "Unwritten": ("subject", "is missing the required"),
    "Lazy": ("import", "No module named 'package_that_is_not_here' [layers.py, line 32: import package_"),
    "NoState": ("subject", "momentum is lost"),
    "Counters": ("bncheck", "[torch.py, line "),
    "Mask": ("subject", "Mask takes 2 inputs (x, mask): forward(x, mask). bncheck gives one tensor"),
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    (case,) = cases_of("custom-layer").values()
    folder = tmp_path_factory.mktemp("layers")
    path = folder / "layers.py"
    path.write_text(LAYERS, encoding="utf-8")
    (folder / "beside.py").write_text("import torch\n\nimport torchvision_that_is_not_here\n", encoding="utf-8")
    (folder / "wrapper.py").write_text("import torch\nfrom beside import Norm\n", encoding="utf-8")
    cases = [renamed(case, name, custom=f"{path}:{name}") for name in RAISING]
    cases.append(renamed(case, "wrapper", custom=f"{folder / 'wrapper.py'}:Norm"))
    cases.append(renamed(case, "installed", custom="torch.nn:BatchNorm2d"))
    cases.append(renamed(case, "not installed", custom="torch_layers_that_are_not_here.norms:Norm"))
    cases += [odd(renamed(case, name, custom=f"{path}:{name}")) for name in ("Ghost", "Moves")]
    cases = [*cases[:-2], replace(cases[-2], name="odd"), replace(cases[-1], name="always")]
    cases += [single(renamed(case, f"single {name}", custom=f"{path}:{name}")) for name in SINGLE]
    return play_cells(
        tmp_path_factory.mktemp("run"), [replace(each, name=each.name.replace(" ", "-")) for each in cases]
    )


# Layers given one value per channel: whose error that is.
SINGLE = {"Plain": "framework", "Wrapped": "framework", "Says": "subject", "OneDimension": "subject"}


def single(case: Case) -> Case:
    """The convolution in front leaves one pixel of nine."""
    return replace(case, inputs={"main": replace(case.inputs["main"], shape=(1, 3, 3, 3))})


@pytest.mark.parametrize("name", SINGLE)
def test_what_the_built_in_layer_refuses_in_the_same_words_is_torchs_refusal(own: dict[str, Cell], name: str) -> None:
    result = own[f"single-{name}"].result
    assert (result.outcome, result.origin) == ("raised", SINGLE[name]), result.error
    words = (
        "expected 2D or 3D input (got 4D input)" if name == "OneDimension" else "Expected more than 1 value per channel"
    )
    assert result.error.startswith(words)
    assert ("layers.py" in result.error) == (name == "Says")


def odd(case: Case) -> Case:
    """Batches of three."""
    return replace(case, inputs={"main": replace(case.inputs["main"], shape=(3, 3, 4, 4))})


@pytest.mark.parametrize("name", RAISING)
def test_an_error_says_whose_it_is_and_on_which_line(own: dict[str, Cell], name: str) -> None:
    origin, words = RAISING[name]
    result = own[name].result
    assert (result.outcome, result.origin) == ("raised", origin), result.error
    assert words in result.error


def test_a_file_that_does_not_import_says_which_line_lacks_what(own: dict[str, Cell]) -> None:
    result = own["wrapper"].result
    assert result.origin == "import"
    assert "No module named 'torchvision_that_is_not_here' (line 2, by way of " in result.error
    assert "beside.py, line 3: import torchvision_that_is_not_here)" in result.error
    assert "--python torch=/path/of/the/project/python" in result.error


def test_layers_of_installed_packages(own: dict[str, Cell]) -> None:
    assert own["installed"].result.outcome == "ok", own["installed"].errors
    assert own["not-installed"].result.origin == "import"
    assert "the package torch_layers_that_are_not_here.norms does not import" in own["not-installed"].result.error


def test_a_layer_that_refuses_the_batch_is_moved_and_copied_with_one_that_it_takes(own: dict[str, Cell]) -> None:
    odd_batch, always = (own[name].result.notes["cell"]["custom"]["bn"] for name in ("odd", "always"))
    assert {answer for key, answer in odd_batch["moves"].items() if key != ".cuda()"} == {"ok"}
    assert odd_batch["remarks"] == [
        "Ghost refuses this batch (ValueError: odd batches are not for ghosts); what else it does was tried with 2 "
        "samples instead of 3"
    ]
    assert always.get("moves", {}) == {}


# ----------------------------------------------------------------------------------------- networks, whole runs

NETWORKS = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Out:
    logits: torch.Tensor
    loss: object = None

class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.bn, self.last = kind, nn.BatchNorm2d(3), nn.Linear(100, 2)

    def forward(self, x):
        y = self.bn(x)
        return {"tensor": y, "one": {"out": y}, "two": {"out": y, "aux": [y.mean(), 3]}, "none": None,
                "dataclass": Out(y)}[self.kind] if self.kind != "small" else self.last(y.flatten(1))

class Mask(Net):
    def forward(self, x, mask):
        return super().forward(x * mask)

def build(kind="tensor"):
    return (Mask if kind == "mask" else Net)("tensor" if kind == "mask" else kind)
"""
SCENARIO = """
title = "Outputs"
why = "What a network may return"
[network]
model = "networks.py:build"
[input]
shape = [4, 3, 2, 2]
[program]
events = ["train_forward", "backward"]
then = ["eval_forward"]
[matrix]
"network.arguments.kind" = ["tensor", "one", "dataclass", "two", "none", "small", "mask"]
"""
SENTENCES = {
    "two": 'the network of build(kind=\'two\') returns a dict with out, aux.0: say which to compare, with '
           'network.output = "out"',
    "none": "the network of build(kind='none') returns a NoneType, which holds no tensor",
    "small": "the input [4, 3, 2, 2] does not fit the network: mat1 and mat2 shapes cannot be multiplied (4x12 and "
             "100x2) [networks.py, line ",
    "mask": "the network of build(kind='mask') takes 2 inputs (x, mask): forward(x, mask). bncheck gives one tensor",
}  # fmt: skip


def test_outputs_and_inputs_of_networks(tmp_path: Path) -> None:
    (tmp_path / "networks.py").write_text(NETWORKS, encoding="utf-8")
    (tmp_path / "outputs.toml").write_text(SCENARIO, encoding="utf-8")
    cases = {case.name: case for case in load_scenario(tmp_path / "outputs.toml").cases}
    named = {
        f"named-{output}": renamed(cases["two"], f"named-{output}", output=output) for output in ("aux", "out", "x")
    }
    cells = play_cells(tmp_path, [*cases.values(), *named.values()])
    for name in ("tensor", "one", "dataclass", "named-out", "named-aux"):
        assert cells[name].result.outcome == "ok", cells[name].errors
    for name in ("one", "dataclass", "named-out"):
        np.testing.assert_array_equal(cells[name].arrays["output/0"], cells["tensor"].arrays["output/0"])
    assert cells["named-aux"].arrays["output/0"].shape == ()
    assert "network.output = 'x' is not there" in cells["named-x"].result.error
    for name, words in SENTENCES.items():
        assert cells[name].result.origin == "subject"
        assert words in cells[name].result.error


def test_a_run_ends_with_2_and_says_what_is_wrong_with_the_network(tmp_path: Path) -> None:
    (tmp_path / "networks.py").write_text(NETWORKS, encoding="utf-8")
    (tmp_path / "outputs.toml").write_text(SCENARIO, encoding="utf-8")
    done = here(
        "run", "outputs.toml", "--no-probe", "--no-report", "-t", "torch", "-t", "torch[no_onednn]", cwd=tmp_path
    )
    assert done.returncode == 2, done.stdout
    assert "BN501" not in done.stdout
    for words in SENTENCES.values():
        assert f"on torch and torch[no_onednn]: {words}" in done.stderr
    assert done.stderr.count("correct it and run again (exit code 2)") == 4
    assert "8 cells could not be played" in done.stdout


def test_an_own_layer_that_refuses_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "layers.py").write_text(LAYERS, encoding="utf-8")
    done = here(
        "run", "custom-layer", "-v", "--no-probe", "--no-report", "-t", "torch", "-t", "torch[builtin]",
        "--set", "network.custom=layers.py:Moves", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    text = " ".join(done.stdout.split())
    assert "BN501 refusal (hazard): Moves (your layer) raises ValueError in train_forward; torch[builtin]" in text
    assert text.count("BN501 refusal") == 1
    assert "moved by then running_mean of bn" in text
    assert "BN409" not in text
    assert "custom-layer on torch: your code raises ValueError: not today [layers.py, line 9: " in done.stderr


# ------------------------------------------------------------------------------------------------ backend files

BACKEND = """
TITLE, MODULE, DISTRIBUTION, DEFAULT_VERSION = "Mine", "", "", ""
VARIANTS = {"": "as the layer says", "broken": "does not start"}
DEVICES, REQUIREMENTS, DOCUMENTED = ("cpu",), [], []

def describe(variant, device):
    return {"version": 1 + None if variant else "1"}

def build(network, params, dtype, variant, device):
    return {"refuses": Refuses, "mistaken": Mistaken, "hollow": Hollow}[network["layers"][0]["name"]]()

class Refuses:
    layers = ()
    def state(self, layer):
        return {}
    def forward(self, x, mode):
        raise ValueError("no")

class Mistaken(Refuses):
    def forward(self, x, mode):
        return x.no_such_thing

class Hollow(Refuses):
    def forward(self, x, mode):
        return None
"""


def test_a_backend_file_is_blamed_for_its_own_mistakes(tmp_path: Path) -> None:
    from test_workers import make_job

    (tmp_path / "mine.py").write_text(BACKEND, encoding="utf-8")
    job = replace(make_job(tmp_path, ["refuses", "mistaken", "hollow"]), backend=tmp_path / "mine.py")
    play([job], 1, lambda progress: None)
    refuses, mistaken, hollow = (record_or_crash(job.folder / cell) for cell in job.cells)
    assert refuses is not None
    assert mistaken is not None
    assert (refuses.origin, refuses.error) == ("framework", "no")
    assert mistaken.origin == "backend"
    assert mistaken.error.endswith("[mine.py, line 21: return x.no_such_thing]")
    assert hollow is not None
    assert hollow.origin == "backend"
    assert hollow.error.startswith("your backend file hands over what cannot be recorded: AttributeError: 'NoneType'")
    reasons = play([replace(job, variant="broken", folder=tmp_path / "cells" / "broken")], 1, lambda progress: None)
    assert reasons["faulty"].startswith("the backend file is wrong: TypeError")
    assert "[mine.py, line 7: return" in reasons["faulty"]


ADAPTER = """
def mistyped():
    return x_is_not_here

def operand():
    return 1 + None

def call(f):
    return f()

def out_of_c():
    return int("x")

def refuse():
    raise AttributeError("n")
"""


def test_the_last_line_decides_in_a_cell_without_code_of_the_users() -> None:
    """What C raises has no line of its own: it comes out of the call, unless it is a mistake in Python's own words."""
    judge = blame.Judge([], False, str(Path(blame.HERE) / "backends" / "torch.py"), "torch")
    compiled: dict[str, Any] = {}
    exec(compile(ADAPTER, judge.backend, "exec"), compiled)

    def origin(name: str, *given: Any) -> str:
        with pytest.raises((NameError, TypeError, ValueError, AttributeError)) as caught:
            compiled[name](*given)
        return str(judge.of(caught.value)[0])

    assert [origin(name) for name in ("mistyped", "operand")] == ["bncheck", "bncheck"]
    assert origin("call", 3) == "bncheck", "'int' object is not callable"
    assert [origin(name) for name in ("out_of_c", "refuse")] == ["framework", "framework"]
    assert origin("call", lambda: None + 1) == "framework", "the last line lies in another file"  # type: ignore[operator]


# -------------------------------------------------------------------------------------------------- scenario files


def test_a_file_of_an_axis_is_looked_up_from_here_and_called_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.py").touch()
    (tmp_path / "a.py").touch()
    monkeypatch.chdir(tmp_path / "here")
    text = HEAD + NETWORK + INPUT + PROGRAM + '[matrix]\n"network.custom" = ["a.py:A", "a.py:B"]\n'
    case = only(load(tmp_path, text, {"network.custom": "mine.py:Norm"}))
    assert case.network.custom == f"{tmp_path / 'here' / 'mine.py'}:Norm"
    assert (case.label, case.name) == ("mine.py:Norm", "mine.py-norm")


def test_installed_layers_are_for_the_command_line(tmp_path: Path) -> None:
    case = only(load(tmp_path, HEAD + NETWORK + INPUT + PROGRAM, {"network.custom": "timm.layers:BatchNormAct2d"}))
    assert case.network.custom == "timm.layers:BatchNormAct2d"
    (fault,) = faults(tmp_path, HEAD + NETWORK + 'custom = "timm.layers:BatchNormAct2d"\n' + INPUT + PROGRAM)
    assert "is code of an installed package" in fault


def test_an_output_is_for_a_network_of_ones_own(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, HEAD + NETWORK + 'output = "out"\n' + INPUT + PROGRAM)
    assert fault.endswith("is for a network of your own, and network.model names none")


def test_the_interpreter_of_the_tests_is_no_framework() -> None:
    """A worker's own folder is bncheck's, the standard library nobody's."""
    judge = blame.Judge([], False, "/elsewhere/mine.py", "")
    assert judge.kind(str(Path(blame.HERE) / "recorder.py")) == "bncheck"
    assert judge.kind("/elsewhere/mine.py") == "backend"
    assert judge.kind(np.__file__) == judge.kind(json_file()) == judge.kind("<string>") == ""
    assert judge.kind("/site-packages/jax/core.py") == "framework"


def json_file() -> str:
    import json

    return json.__file__


def test_arguments_for_one_framework_alone_are_the_scenarios(tmp_path: Path) -> None:
    text = HEAD + NETWORK.replace(" }]", ", native = { torch = { nonsense = 1 } } }]") + INPUT + PROGRAM
    result = play_cells(tmp_path, list(load(tmp_path, text).cases))["base"].result
    assert (result.origin, result.outcome) == ("subject", "raised")
    assert result.error.startswith('the scenario\'s native.torch = {"nonsense": 1}: TypeError: ')
