"""bncheck from Python: light until it is used, and in one process with a real framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import ROOT, here
from beside_torch import answers
from literal_life import ANSWER, LEAK, LIFE, results

import bncheck
from bncheck.errors import UsageError
from bncheck.python.result import Result


def test_import_is_light() -> None:
    heavy = ("numpy", "pandas", "pydantic", "rich", "matplotlib", "torch")
    code = f"import sys, bncheck; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there_and_no_other() -> None:
    names = ("judge", "watch", "check", "diff", "assert_clean", "assert_equivalent", "assert_frozen",
             "assert_statistics_move", "assert_same_in_any_batch")  # fmt: skip
    for name in names:
        assert callable(getattr(bncheck, name)) and name in dir(bncheck)
    with pytest.raises(AttributeError, match="no attribute 'wtach'"):
        _ = bncheck.wtach


# ------------------------------------------------------------------------------------------------------------- judge


def recording(**more: Any) -> dict[str, Any]:
    """A layer of two channels over 60 steps of training, its average of weight 0.1 as it must be."""
    mean = np.tile([0.5, 2.0], (60, 1)) + 0.1 * np.sin(np.arange(60))[:, None]
    var = np.ones((60, 2))
    held_mean, held_var = np.zeros((61, 2)), np.ones((61, 2))
    for k in range(60):
        held_mean[k + 1] = 0.9 * held_mean[k] + 0.1 * mean[k]
        held_var[k + 1] = 0.9 * held_var[k] + 0.1 * var[k] * 64 / 63
    layer = {
        "training": [1] * 60, "n": [64] * 60, "input_mean": mean.tolist(), "input_var": var.tolist(),
        "mean_before": held_mean[:-1].tolist(), "mean_after": held_mean[1:].tolist(),
        "var_before": held_var[:-1].tolist(), "var_after": held_var[1:].tolist(),
    }  # fmt: skip
    return {"program": "train.jl", "framework": "lux", "layers": {"bn1": {**layer, **more}}}


def test_a_healthy_recording_is_clean() -> None:
    found = bncheck.judge(recording())
    assert found.faults == () and [each.layer for each in found.answer.rows] == ["bn1"]
    bncheck.assert_clean(found)


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_statistics_that_were_widened_are_not_judged_as_float64(framework: str, dtype: type) -> None:
    """A layer keeps them in the precision that it has; JSON knows one."""
    rng = np.random.default_rng(1)
    mean, var, w = rng.normal(2, 0.1, (20, 3)), rng.uniform(0.5, 2.0, (20, 3)), dtype(0.1)
    rows = [(np.zeros(3, dtype), np.ones(3, dtype))]
    for each, spread in zip(mean, var * (64 / 63 if framework == "torch" else 1), strict=True):
        m, v = rows[-1]
        rows.append(((1 - w) * m + w * each.astype(dtype), (1 - w) * v + w * spread.astype(dtype)))
    m, v = (np.stack(part) for part in zip(*rows, strict=True))
    layer = {
        "training": [1] * 20, "n": [64] * 20, "input_mean": mean, "input_var": var, "eps": [1e-3] * 20,
        "momentum": [0.1 if framework == "torch" else 0.9] * 20,
        "mean_before": m[:-1], "mean_after": m[1:], "var_before": v[:-1], "var_after": v[1:],
    }  # fmt: skip
    plain = {key: np.asarray(value).tolist() for key, value in layer.items()}
    for held in (layer, plain) if dtype is not np.float16 else (layer,):
        bncheck.assert_clean(bncheck.judge({"framework": framework, "layers": {"bn": held}}))


def test_a_recording_comes_as_json_npz_mapping_or_run_folder(tmp_path: Path) -> None:
    poisoned = np.array(recording()["layers"]["bn1"]["var_after"])
    before = np.array(recording()["layers"]["bn1"]["var_before"])
    poisoned[30:], before[31:] = np.nan, np.nan
    words = {"var_after": [[None if np.isnan(x) else x for x in row] for row in poisoned],
             "var_before": [["nan" if np.isnan(x) else x for x in row] for row in before]}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(recording(**words)))
    arrays = {f"bn1/{key}": np.array(value) for key, value in recording()["layers"]["bn1"].items()}
    np.savez(tmp_path / "a.npz", **{**arrays, "bn1/var_after": poisoned, "bn1/var_before": before})
    for source in (tmp_path / "a.json", str(tmp_path / "a.npz"), recording(var_after=poisoned, var_before=before)):
        found = bncheck.judge(source)
        moments = found.lives[0].layers[0].moments
        assert np.isnan(moments["var_after"][30:]).all() and np.isfinite(moments["var_after"][:30]).all()
    page = found.report(tmp_path / "run")
    assert page.exists() and "bn1" in page.read_text()
    again = bncheck.judge(tmp_path / "run")
    assert np.array_equal(again.lives[0].layers[0].moments["var_after"], moments["var_after"], equal_nan=True)
    assert here("report", str(tmp_path / "run"), "--format", "html").returncode == 0


def test_the_birth_of_nan_is_read_from_the_numbers() -> None:
    """One batch with NaN in channel 0 at forward 30: it came in, and it stays."""
    changed = {key: np.array(recording()["layers"]["bn1"][key]) for key in ("input_mean", "mean_before", "mean_after")}
    changed["input_mean"][30, 0] = np.nan
    changed["mean_after"][30:, 0] = changed["mean_before"][31:, 0] = np.nan
    found = bncheck.judge(recording(**changed))
    (born,) = [each for each in found.lives[0].happenings if each.what == "nonfinite"]
    assert (born.step, born.layers, dict(born.detail)) == (30, ("bn1",), {"in": "input", "born": False})
    assert [each.cause for each in found.faults] == ["poisoned-state"]


def test_forwards_are_put_in_order_and_modes_become_spans() -> None:
    modes = [1] * 40 + [0] * 20
    life = bncheck.judge(recording(training=modes, index=list(range(60))[::-1])).lives[0]
    (one, two) = life.layers[0].spans
    assert (one.training, one.forwards, two.training, two.forwards) == (False, 20, True, 40)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "A recording has `layers`"),
        ({"layers": {"bn": 3}}, "Layer 'bn' of the recording has no quantities"),
        ({"layers": {"bn": {"n": [1]}}}, "lacks training and mean_before and mean_after"),
        (recording(n=["many"] * 60), "n of layer 'bn1' are no numbers"),
        (recording(n=[[1]] * 60), "n of layer 'bn1' has 2 axes"),
        (recording(n=[1] * 59), r"n of layer 'bn1' has the shape \(59,\) and not \(60,\)"),
        (recording(mean_after=[[1, 2], [3]]), "mean_after of layer 'bn1' are no numbers"),
        ({**recording(), "happenings": [{"what": "party"}]}, "A happening of the recording is none of"),
        ({**recording(), "happenings": "all of them"}, "`happenings` of the recording is no list"),
        ({**recording(), "happenings": [{"what": "eval", "step": "late"}]}, "an index or step that is no number"),
        ({**recording(), "steps": "many"}, "`steps` of the recording is no number"),
    ],
)
def test_what_is_no_recording_is_said_in_a_sentence(value: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        bncheck.judge(value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"{", "cannot be read as JSON"),
        ("a.json", b"[" * 100_000, "cannot be read as JSON"),
        ("a.json", b"[]", "holds no object"),
        ("b.json", None, "There is no recording"),
    ],
)
def test_a_file_that_is_no_recording_is_said_in_a_sentence(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        bncheck.judge(tmp_path / name)


def test_a_folder_without_a_recording_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no recording"):
        bncheck.judge(tmp_path)


# ------------------------------------------------------------------------------------------------------------ results


def test_a_result_shows_itself_at_a_prompt_and_in_a_notebook() -> None:
    found = Result(ANSWER, results(), (LIFE,))
    assert (
        str(found).splitlines()[0] == " train.py: 1 of 3 BatchNorm layers stopped learning its statistics at step 40."
    )
    assert "→ Call model.train() after evaluate()." in str(found)
    assert repr(found).startswith("<bncheck: train.py: 1 of 3") and found.faults == (LEAK,)
    shown = found._repr_html_()
    assert "mode-leak" in shown and "<svg" in shown and "<script" not in shown


def test_assert_clean_names_what_is_not() -> None:
    with pytest.raises(AssertionError, match=r"1 finding:\n  BN401 mode-leak: evaluate\(\) .* → Call model.train\(\)"):
        bncheck.assert_clean(Result(ANSWER, results(), ()))
    bncheck.assert_clean(Result(ANSWER, results(findings=())))


def test_what_cannot_be_watched_or_asserted_is_said_in_a_sentence() -> None:
    with pytest.raises(UsageError, match="A list is no model of a framework that bncheck watches"), bncheck.watch([]):
        pass
    with pytest.raises(UsageError, match="A int is no module of a framework that bncheck asserts about"):
        bncheck.assert_frozen(3, lambda: None)
    with pytest.raises(UsageError, match="Nothing was watched yet"):
        _ = bncheck.watch([]).findings
    with pytest.raises(UsageError, match="stands in no file"):
        bncheck.check(type("Local", (), {"__module__": "builtins"}))


# --------------------------------------------------------------------------------------------- beside a real framework

PROGRAM = """
import warnings
import bncheck, torch
from torch import nn
from bncheck.errors import UsageError

torch.manual_seed(0)

def network():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1),
                         nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))

class Stepper:
    def __init__(self, model):
        self.model, self.optimiser = model, torch.optim.SGD(model.parameters(), lr=1e-3)

    def __call__(self):
        self.optimiser.zero_grad()
        self.model(2 * torch.randn(16, 3, 6, 6) + 1).square().mean().backward()
        self.optimiser.step()

def said(assertion, *given, **more):
    try:
        assertion(*given, **more)
    except (AssertionError, UsageError) as error:
        return str(error)
    return ""

# -- watching
net = network()
step = Stepper(net)
other = network()
train = nn.Module.train
with bncheck.watch(net) as seen:
    for _ in range(40):
        step()
    other(torch.randn(4, 3, 6, 6))
answers["life"] = [[layer.name, layer.forwards, layer.spans[0].training] for layer in seen.lives[0].layers]
answers["steps"], answers["faults"] = seen.lives[0].steps, [each.cause for each in seen.faults]
answers["page"] = seen.report("run").read_text()[:15]
answers["hooks gone"] = nn.Module.train is train and len(nn.modules.module._global_forward_hooks) == 0
answers["html"] = "<svg" in seen._repr_html_()

@bncheck.watch()
def poisoned():
    model = network()
    run = Stepper(model)
    for _ in range(3):
        run()
    model(torch.full((4, 3, 6, 6), float("nan")))
    return "returned"

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    answers["returned"] = poisoned()
answers["warned"] = [str(each.message) for each in caught if "BatchNorm" in each.category.__name__]
answers["kept"] = [each.cause for each in poisoned.watched.findings]
try:
    with bncheck.watch(net) as failed:
        step()
        raise KeyError("the user's own")
except KeyError as error:
    answers["error"] = str(error)
answers["after error"] = failed.lives[0].forwards

# -- assertions
frozen = network()
still = Stepper(frozen)
for each in frozen.modules():
    if isinstance(each, nn.BatchNorm2d):
        each.requires_grad_(False)
answers["half frozen"] = said(bncheck.assert_frozen, frozen, still)
for each in frozen.modules():
    if isinstance(each, nn.BatchNorm2d):
        each.eval()
answers["frozen"] = said(bncheck.assert_frozen, frozen, still)
answers["no parameters frozen"] = said(bncheck.assert_frozen, network().eval(), lambda: None)
thawed = network().eval()
answers["thawed"] = said(bncheck.assert_frozen, thawed, Stepper(thawed))
answers["still"] = said(bncheck.assert_statistics_move, frozen, still)
answers["moving"] = said(bncheck.assert_statistics_move, net, step)
net[1].momentum = 0.0
answers["deaf"] = said(bncheck.assert_statistics_move, net, step)
net[1].momentum = 0.1
answers["no norms"] = said(bncheck.assert_statistics_move, nn.Linear(2, 2), lambda: None)

batch = torch.randn(8, 3, 6, 6)
net.train()
answers["any batch"] = said(bncheck.assert_same_in_any_batch, net, batch)
answers["mode is put back"] = all(each.training for each in net.modules())
stateless = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
answers["neighbours"] = said(bncheck.assert_same_in_any_batch, stateless, batch)

class Deaf(nn.BatchNorm2d):
    def forward(self, x):
        held = self.running_mean, self.running_var
        return nn.functional.batch_norm(x, *held, self.weight, self.bias, True, 0.0, self.eps)

answers["deaf in eval"] = said(bncheck.assert_same_in_any_batch, nn.Sequential(nn.Conv2d(3, 3, 1), Deaf(3)), batch)
answers["one sample"] = said(bncheck.assert_same_in_any_batch, net, batch[:1])

class Biased(nn.BatchNorm2d):
    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(x.mean((0, 2, 3)), self.momentum)
                self.running_var.lerp_(x.var((0, 2, 3), unbiased=False), self.momentum)
            return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(x)

class Renamed(nn.Module):  # PyTorch's own arithmetic under the names of Keras
    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("moving_mean", torch.zeros(channels))
        self.register_buffer("moving_var", torch.ones(channels))
        self.eps = eps

    def forward(self, x):
        held = self.moving_mean, self.moving_var
        return nn.functional.batch_norm(x, *held, self.gamma, self.beta, self.training, 0.1, self.eps)

class Wrapped(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.bn(x)

for kind in (Renamed, Wrapped):
    answers[kind.__name__] = said(bncheck.assert_equivalent, kind, nn.BatchNorm2d, shape=(4, 3, 5, 5))
answers["made already"] = said(bncheck.assert_equivalent, Wrapped(3), nn.BatchNorm2d, shape=(4, 3, 5, 5))
answers["equivalent"] = said(bncheck.assert_equivalent, nn.BatchNorm2d, nn.BatchNorm2d, shape=(4, 3, 5, 5), eps=1e-3)
answers["biased"] = said(bncheck.assert_equivalent, Biased, nn.BatchNorm2d, shape=(4, 3, 2, 2))
answers["norm of another kind"] = said(bncheck.assert_equivalent, nn.InstanceNorm2d, nn.BatchNorm2d, shape=(4, 3, 5, 5))

# -- checking what a model holds
answers["in order"] = bncheck.check(net).headline
with torch.no_grad():
    net[4].running_var[2] = -1.0
answers["negative"] = [each.layer for each in bncheck.check(net).faults]
answers["not clean"] = said(bncheck.assert_clean, net)

# -- comparing
twin = network()
twin.load_state_dict(net.state_dict())
answers["twins"] = [bncheck.diff(net, twin).headline, len(bncheck.diff(net, twin).findings)]
with torch.no_grad():
    twin[4].running_mean += 1
answers["moved"] = [[each.layer, each.quantity] for each in bncheck.diff(net, twin).findings]
torch.save(net.state_dict(), "a.pt")
torch.save(twin.state_dict(), "b.pt")
of_files = bncheck.diff("a.pt", "b.pt")
answers["of files"] = [[each.layer, each.quantity] for each in of_files.findings]
answers["page of files"] = of_files.report("of-files").exists()
answers["file alone"] = [each.layer for each in bncheck.check("a.pt").faults]
answers["one of each"] = said(bncheck.diff, "a.pt", net)
answers["no such option"] = said(bncheck.check, "a.pt", colour=3)
"""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return answers(PROGRAM, tmp_path_factory.mktemp("beside-torch"))


def test_watch_follows_the_model_and_no_other(there: Any) -> None:
    assert there["life"] == [["1", 40, True], ["4", 40, True]]
    assert there["steps"] == 40 and there["faults"] == []
    assert there["page"] == "<!doctype html>" and there["html"] and there["hooks gone"]


def test_a_decorated_function_returns_what_it_returned_and_findings_are_warnings(there: Any) -> None:
    assert there["returned"] == "returned"
    assert "poisoned-state" in there["kept"] and any("poisoned-state" in text for text in there["warned"])


def test_an_error_inside_is_the_user_s_own_and_what_was_seen_is_kept(there: Any) -> None:
    assert there["error"] == '"the user\'s own"' and there["after error"] == 2


def test_assert_frozen(there: Any) -> None:
    assert there["half frozen"].startswith("The running statistics of 1, 4 moved in this step, in 1 by up to ")
    assert "requires_grad = False does not hold statistics" in there["half frozen"]
    assert there["frozen"] == there["no parameters frozen"] == ""
    assert there["thawed"].startswith("gamma and beta of 1, 4 moved in this step")


def test_assert_statistics_move(there: Any) -> None:
    assert there["moving"] == ""
    assert "1, 4 are in eval mode: call model.train() before the step" in there["still"]
    assert "momentum is 0 in 1" in there["deaf"] and "statistics of 1 stood still" in there["deaf"]
    assert there["no norms"].startswith("Linear has no layer that normalises by running statistics")


def test_assert_same_in_any_batch(there: Any) -> None:
    assert there["any batch"] == "" and there["mode is put back"]
    assert there["neighbours"].startswith("In eval samples 0 to 3 get other outputs alone than among 8: off by ")
    assert "1 is the first layer that gives the same input other outputs" in there["deaf in eval"]
    assert there["one sample"].startswith("One sample cannot come in other batches.")


def test_assert_equivalent(there: Any) -> None:
    assert there["equivalent"] == there["Renamed"] == there["Wrapped"] == ""
    assert "makes both layers itself, and got a Wrapped that is made already" in there["made already"]
    assert there["biased"].startswith(
        "Biased is not equivalent to BatchNorm2d: running_var in training, step 1 is off by "
    )
    assert "15/16 times as much of each batch: it divides by n where the other divides by n − 1" in there["biased"]
    assert there["norm of another kind"].startswith("InstanceNorm2d is not equivalent to BatchNorm2d: ")


def test_check_judges_what_a_model_in_this_process_holds(there: Any) -> None:
    assert there["in order"] == "2 BatchNorm layers, nothing wrong with what they hold."
    assert there["negative"] == ["4"]
    assert "poisoned-state" in there["not clean"]


def test_two_models_and_two_files_are_compared_alike(there: Any) -> None:
    assert there["twins"][1] == 0
    assert there["moved"] == there["of files"] and there["moved"][0][0] == "4"
    assert there["file alone"] == ["4"] and there["page of files"]
    assert there["one of each"].startswith("A model object is compared with another, and a file with a file.")
    assert there["no such option"].startswith("check takes no such option")
