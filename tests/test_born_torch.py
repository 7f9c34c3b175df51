"""NaN, Inf and variances below zero from the command line to their finding, on one target and on two that agree."""

from __future__ import annotations

import json
from typing import Any

import pytest
from at_the_prompt import here
from torch_cells import python_of

NETWORKS = '''
import torch
from torch import nn


class Frozen(nn.Module):
    """A frozen BatchNorm of somebody's own, no nn.BatchNorm; one of its variances is below zero."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.linspace(-0.5, 2.0, channels))

    def forward(self, x):
        return (x - self.mean[:, None, None]) * (self.var[:, None, None] + 1e-5).rsqrt()


class Listed(nn.Module):
    """Its BatchNorm stands in a plain list: eval() does not reach it."""

    def __init__(self):
        super().__init__()
        self.front, self.norms, self.back = nn.Conv2d(3, 4, 3), [nn.BatchNorm2d(4)], nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.back(self.norms[0](self.front(x)))


def trained():
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6))
    with torch.no_grad():
        for _ in range(3):
            net.train()(3 * torch.randn(8, 3, 8, 8) - 1)
    return net


def build(damage):
    if damage == "listed":
        return Listed()
    if damage == "home-made":
        return nn.Sequential(nn.Conv2d(3, 4, 3), Frozen(4), nn.ReLU())
    net = trained()
    with torch.no_grad():
        if damage == "below zero":
            net[1].running_var[2] = -0.25
        if damage == "nan":
            net[1].running_var[4] = float("nan")
        if damage == "nothing":
            net[4].running_var.zero_()
        for norm in (net[1], net[4]) if damage == "exchanged" else ():
            norm.running_mean, norm.running_var = norm.running_var.clone(), norm.running_mean.clone()
    return net
'''
DAMAGED = """
title = "Somebody's network with damaged state"
why = "all targets share it, or only one ran"
targets = [TARGETS]
[network]
model = "networks.py:build"
arguments = { damage = "none" }
[input]
shape = [8, 3, 8, 8]
std = 2.0
[program]
events = ["eval_forward", "train_forward", "backward", "eval_forward", { event = "eval_in_batches", sizes = [2, 8] }]
[matrix]
"network.arguments.damage" = ["none", "below zero", "nan", "nothing", "exchanged", "home-made", "listed"]
"""
HALF = """
title = "Large input before a dense layer in float16"
why = "the cast makes it infinite"
targets = ["torch"]
dtype = "float16"
[network]
layers = [{ name = "fc", type = "dense", units = 4 }, { name = "bn", type = "batch_norm" }]
[input]
shape = [4, 6]
fill = "constant"
value = 80000.0
dtype = "float32"
[program]
events = ["train_forward", "eval_forward"]
"""


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Findings by scenario and case, of two targets that share everything and of one alone."""
    for variant in ("", "no_onednn"):
        python_of(variant)
    folder = tmp_path_factory.mktemp("born")
    (folder / "networks.py").write_text(NETWORKS, encoding="utf-8")
    (folder / "damaged.toml").write_text(DAMAGED.replace("TARGETS", '"torch", "torch[no_onednn]"'), encoding="utf-8")
    (folder / "half.toml").write_text(HALF, encoding="utf-8")
    words = ["--no-probe", "--no-report", "-q", "--fail-on", "never", "--out", str(folder / "run")]
    done = here("run", str(folder / "damaged.toml"), str(folder / "half.toml"), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    assert {cell["outcome"] for cell in run["cells"]} == {"ok"}
    found: dict[str, list[dict[str, Any]]] = {}
    for item in run["findings"]:
        found.setdefault(item["case"] if item["scenario"] == "damaged" else "half", []).append(item)
    return found


@pytest.mark.parametrize(
    ("case", "layer", "says"),
    [
        ("below-zero", "1", "give NaN in eval in channel 2 of layer 1, because running_var is -0.25 there before any"),
        ("nan", "1", "is NaN before any event and stays so"),
        ("nothing", "4", "is 0 in all 6 channels before any event: eval multiplies what varies there"),
        ("exchanged", "1", "Means and variances seem to have changed places: no mean is below zero."),
        ("home-made", "", "and bncheck sees no BatchNorm layer in it."),
        ("half", "bn", "is not finite in float16, before the first BatchNorm layer of torch"),
    ],
)
def test_each_damage_is_one_finding(findings: Any, case: str, layer: str, says: str) -> None:
    (found,) = [item for item in findings[case] if item["kind"] != "rounding"]
    assert (found["cause"], found["kind"], found["layer"]) == ("poisoned-state", "hazard", layer)
    assert says in found["title"]
    assert "torch" in found["targets"]


def test_what_is_not_finite_is_said_where_a_layer_alone_shows_it(findings: Any) -> None:
    (found,) = [item for item in findings["below-zero"] if item["kind"] != "rounding"]
    assert "4 (output" in found["evidence"]["also not finite"]
    assert "the network's output" in found["evidence"]["also not finite"]


def test_a_layer_in_a_plain_list_is_no_rounding(findings: Any) -> None:
    (found,) = [item for item in findings["listed"] if "in eval" in item["title"]]
    assert (found["cause"], found["layer"]) == ("unexplained", "back")
    assert "rounding makes" in found["title"]


def test_a_sound_network_is_not_suspected(findings: Any) -> None:
    assert [item for item in findings.get("none", ()) if item["kind"] != "rounding"] == []
