"""Own layers that part from BatchNorm by one rule each, played for real: each rule is named, nothing else is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from at_the_prompt import here

from bncheck.diagnosis.audit import audit
from bncheck.finding import Finding
from bncheck.run_folder.results import Results, read_results

LAYERS = Path(__file__).parent / "unusual_layers.py"
SCENARIO = """
title = "Own layers that part by one rule"
why = "Each has one, or none, and gamma and beta are not 1 and 0."
targets = ["torch", "torch[builtin]"]
[network]
[[network.layers]]
name = "bn"
type = "batch_norm"
initial = {{ gamma = [1.5, 0.8, -0.6, 1.2], beta = [0.5, -1, 0, 2] }}
[input]
shape = [16, 4, 3, 6]
mean = [1.0, -2.0, 0.5, 3.0]
std = [1.0, 0.5, 2.0, 0.1]
[program]
events = ["train_forward", "backward"]
repeat = 4
then = ["eval_forward"]
[matrix]
"network.custom" = [{layers}]
"""
# Layer → the causes that are named between it and the built-in layer, all of them, and words of a sentence about it.
WANTED = {
    "Own": (set(), ""),
    "Chunks": (
        {"value-count", "update-count"},
        "each half of the batch on its own, and updates its running",
    ),
    "UnevenChunks": ({"value-count", "update-count"}, "normalises each chunk of 5 samples on its own"),
    "ChunksOneUpdate": ({"value-count"}, "on its own; its running statistics take the whole batch"),
    "Domains": ({"value-count"}, "normalises each half of the batch on its own, and averages the first alone"),
    "OwnDomains": ({"value-count", "affine"}, "by another gamma and beta than those it holds (other); "),
    "BatchAlone": ({"normaliser-source"}, "normalises with the batch's statistics in eval"),
    "Gated": ({"unexplained"}, "differs from torch[builtin]"),
    "Pixelwise": (
        {"value-count"},
        "normalises each position of each sample on its own, over all channels, in training and in eval",
    ),
    "HalfInstance": ({"unexplained"}, "differs from torch[builtin]"),
    "Masked": ({"value-count"}, "takes mean and variance of the first 3 of 6 positions of the last axis"),
    "FirstSamples": ({"value-count"}, "takes mean and variance of the first 5 of 16 samples"),
    "OnlyStatisticsOfHalf": ({"value-count"}, "with the whole batch, but averages the first 8 of 16 samples"),
    "PerSample": ({"value-count", "never-updated"}, "each sample and channel on its own, in training and in eval"),
    "Relu": ({"activation"}, "puts a ReLU behind the normalisation"),
    "Leaky": ({"activation"}, "puts a leaky ReLU of slope 0.2 behind the normalisation"),
    "Silu": ({"activation"}, "puts a SiLU behind the normalisation"),
    "Gelu": ({"activation"}, "puts a GELU behind the normalisation"),
    "Elu": ({"activation"}, "puts an ELU behind the normalisation"),
    "Tanh": ({"activation"}, "puts a tanh behind the normalisation"),
    "EpsOutside": ({"eps"}, "adds eps to the deviation, sqrt(var) + 1e-05"),
    "NoEps": ({"eps"}, "leaves out the eps of 1e-05"),
    "OnePlusGamma": ({"affine"}, "scales by 1 + gamma, not by gamma"),
    "SizeOfGamma": ({"affine"}, "scales by the size of gamma, without its sign"),
    "ShiftFirst": ({"affine", "eps"}, "adds beta before it scales by gamma, which scales beta too"),
    "Exchanged": ({"affine"}, "scales by beta and shifts by gamma"),
    "OtherEps": ({"eps"}, "adds an eps of 0.02 to the variance, instead of 1e-05"),
    "SampleDeviation": ({"normaliser-divisor"}, "divides by the deviation of n - 1"),
    "ReluOutside": ({"activation", "eps"}, "adds eps to the deviation, sqrt(var) + 1e-05"),
    "ChunksRelu": ({"activation", "value-count", "update-count"}, "puts a ReLU behind the normalisation"),
    "Blend": ({"normaliser-source"}, "normalises with a blend, 0.75 of it the batch's statistics"),
    "Switchable": (
        {"normaliser-source"},
        "(0.3 instance, 0.2 layer and 0.5 batch for the mean, 0.4 instance, 0.2 layer",
    ),
    "Renorm": ({"normaliser-source"}, "by batch renormalisation (r clipped at 1.5, d clipped at 0.5) in training"),
    "HeldDeviation": ({"wrong-statistic", "normaliser-source"}, "averages the standard deviation"),
    "FirstReplaces": ({"averaging"}, "lets the first batch replace what the running statistics began with"),
    "Debiased": ({"averaging"}, "divides its averages by 1 - (1 - weight)^k"),
    "Twice": ({"update-count"}, "as 2 updates of weight 0.1 per forward do"),
    "TwiceUncounted": ({"update-count"}, "as 2 updates of weight 0.1 per forward do"),
    # Where no average fits, what needs none is measured all the same.
    "AverageOfNothingKnown": ({"eps", "unexplained"}, "adds an eps of 0.02 to the variance"),
}
# How state is named, and what a layer without a counter does, is no matter of numbers.
OTHERS = ("layer-contract", "state-mismatch")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("unusual")
    shutil.copy(LAYERS, folder)  # a scenario may name files of its own folder only
    layers = ", ".join(f'"{LAYERS.name}:{name}"' for name in WANTED)
    (folder / "layers.toml").write_text(SCENARIO.format(layers=layers), encoding="utf-8")
    done = here("run", str(folder / "layers.toml"), "--no-probe", "--no-report", "-q", "--out", str(folder / "run"))
    assert done.returncode == 1, done.stderr
    return read_results(folder / "run")


def about(results: Results, layer: str) -> list[Finding]:
    """Findings above rounding in the case of one layer."""
    (case,) = [case for scenario in results.scenarios for case in scenario.cases
               if str(case.matrix["network.custom"]).endswith(f":{layer}")]  # fmt: skip
    found = [item for item in results.findings if item.case == case.name and item.kind != "rounding"]
    return [item for item in found if item.cause not in OTHERS]


def test_nothing_differs_silently(results: Results) -> None:
    assert audit(results) == ()


@pytest.mark.parametrize("layer", WANTED)
def test_its_rule_is_named_and_no_other(results: Results, layer: str) -> None:
    causes, words = WANTED[layer]
    found = about(results, layer)
    assert {item.cause for item in found} == causes
    assert not found or any(words in item.title for item in found)
    assert all(item.kind == "defect" and item.departs == "torch" for item in found)
