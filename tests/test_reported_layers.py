"""Own layers as public reports have them, played for real: every difference is said, and none passes as equivalent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from at_the_prompt import here

from bncheck.diagnosis.audit import audit
from bncheck.finding import Finding
from bncheck.run_folder.results import Results, read_results

LAYERS = Path(__file__).parent / "reported_layers.py"
SCENARIO = """
title = "Own layers of public reports"
why = "Each has one mistake, or none."
targets = ["reference", "torch", "torch[builtin]"]
[network]
layers = [{{ name = "bn", type = "batch_norm" }}]
[input]
shape = [32, 4]
mean = [1.0, -2.0, 0.5, 3.0]
[program]
events = ["train_forward", "backward"]
repeat = 4
then = ["eval_forward"]
[matrix]
"network.custom" = [{layers}]
"""
# Layer → causes that must be named between it and the built-in layer, and words of a sentence about it.
WANTED = {
    "SampleVariance": ({"normaliser-divisor"}, "with 32 values per channel y is 1.016 times as large on reference and"),
    "LostUpdate": ({"never-updated"}, "never moves the running statistics of bn in 4 training forwards"),
    "BetaTakenBack": ({"gradient"}, "but not in dbeta of bn: off by up to"),
    "Fused": ({"never-updated", "normaliser-source"}, "normalises with the running statistics"),
    "Halves": ({"value-count"}, "takes mean and variance of the first 16 of 32 samples"),
    "Chunks": (
        {"value-count"},
        "normalises each chunk of 8 samples on its own, and updates its running",
    ),
    "WithRelu": ({"activation"}, "puts a ReLU behind the normalisation"),
    "PerSample": ({"value-count", "normaliser-source", "state-mismatch"}, "keeps no running_mean or running_var of bn"),
    "NoGradientToInput": ({"gradient"}, "gives the network's input no gradient"),
    "EpsOutsideScaledGradients": ({"unexplained"}, "grad_gamma of bn by up to"),
    "NanBesideDivisor": ({"unexplained"}, "running_var of bn by up to"),
    "GradScaled": ({"gradient"}, "in y, but not in dgamma of bn"),
    # What else is wrong with a layer does not excuse its training output.
    "ClampedLostUpdate": ({"never-updated", "unexplained"}, "the network's output by up to"),
    "ClampedDivisor": ({"variance-divisor", "unexplained"}, "the network's output by up to"),
    "ClampedUncounted": ({"counter-skew", "unexplained"}, "the network's output by up to"),
    "ClampedPoisoned": ({"unexplained"}, "the network's output by up to"),
}


# In half precision, and behind a convolution with a ReLU after it, rounding is wide enough for much to hide in.
WIDE = """
title = "Where rounding is wide"
why = "Nothing hides in it."
dtype = "{dtype}"
targets = ["reference", "torch", "torch[builtin]"]
[network]
layers = {layers}
[input]
shape = [8, 3, 8, 8]
mean = [0.5, -2.0, 3.0]
[program]
events = ["train_forward", "backward"]
repeat = 3
[matrix]
"network.custom" = [{names}]
"""
BN = '{ name = "bn", type = "batch_norm" }'
CONV = '{ name = "c", type = "conv2d", out_channels = 4, kernel = 3 }'
RELU = '{ name = "r", type = "relu" }'
# (dtype, layers, own layer → the quantity of its only defect)
HIDING: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("bfloat16", f"[{BN}]", {"Negated": "output"}),
    ("float16", f"[{BN}]", {"Negated": "output"}),
    ("float32", f"[{CONV}, {BN}, {RELU}]", {"OneGradientLost": "grad_input", "OtherVariance": "running_var"}),
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One run of all of them: the frameworks are imported once."""
    heals = SCENARIO.format(layers=listed("Right", "HealsNan", "HealsNanScaled"))
    heals = heals.replace("[program]", '[inputs.bad]\nshape = [32, 4]\npoison = "nan"\n[program]\nfirst = '
                          '[{ event = "train_forward", input = "bad" }]')  # fmt: skip
    wide = {
        dtype: WIDE.format(dtype=dtype, layers=layers, names=listed("Plain", *wanted))
        for dtype, layers, wanted in HIDING
    }
    layers = SCENARIO.format(layers=listed("Right", *WANTED))
    return played(tmp_path_factory.mktemp("reported"), layers=layers, heals=heals, **wide)


def listed(*layers: str) -> str:
    return ", ".join(f'"{LAYERS.name}:{name}"' for name in layers)


def played(folder: Path, **scenarios: str) -> Results:
    shutil.copy(LAYERS, folder)  # a scenario may name files of its own folder only
    for name, text in scenarios.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    files = (str(folder / f"{name}.toml") for name in scenarios)
    done = here("run", *files, "--no-report", "-q", "--out", str(folder / "run"))
    assert done.returncode == 1, done.stderr
    return read_results(folder / "run")


def about(results: Results, layer: str, name: str = "layers") -> list[Finding]:
    """Findings above rounding in the case of one layer of a scenario."""
    (case,) = [case for scenario in results.scenarios if scenario.name == name for case in scenario.cases
               if str(case.matrix["network.custom"]).endswith(f":{layer}")]  # fmt: skip
    here = [item for item in results.findings if (item.scenario, item.case) == (name, case.name)]
    return [item for item in here if item.kind != "rounding"]


def test_nothing_differs_silently(results: Results) -> None:
    assert audit(results) == ()


def test_a_right_layer_is_equivalent(results: Results) -> None:
    assert about(results, "Right") == []


@pytest.mark.parametrize("layer", WANTED)
def test_a_wrong_one_is_a_defect_that_says_what_is_wrong(results: Results, layer: str) -> None:
    causes, words = WANTED[layer]
    between = [item for item in about(results, layer) if item.between("torch", "torch[builtin]")]
    assert {item.cause for item in between} >= causes
    assert any(item.kind == "defect" and item.departs == "torch" for item in between)
    assert any(words in item.title for item in between)


@pytest.mark.parametrize(("dtype", "wanted"), [(dtype, wanted) for dtype, _, wanted in HIDING])
def test_nothing_hides_where_rounding_is_wide(results: Results, dtype: str, wanted: dict[str, str]) -> None:
    assert about(results, "Plain", dtype) == []
    for layer, quantity in wanted.items():
        (defect,) = [item for item in about(results, layer, dtype) if item.kind == "defect"]
        assert (defect.quantity, defect.departs) == (quantity, "torch")


def test_a_layer_that_heals_what_the_built_in_one_keeps_is_not_equivalent(results: Results) -> None:
    assert not [item for item in about(results, "Right", "heals") if item.kind == "defect"]
    between = [item for item in about(results, "HealsNan", "heals") if item.between("torch", "torch[builtin]")]
    (healed,) = [item for item in between if item.cause == "poisoned-state"]
    assert (healed.kind, healed.departs, healed.departs_from) == ("defect", "torch", "the built-in layer")
    assert "gives finite outputs in eval_forward" in healed.title
    assert not [item for item in between if item.cause == "unexplained"]
    scaled = about(results, "HealsNanScaled", "heals")
    both = {item.cause for item in scaled if item.between("torch", "torch[builtin]")}
    assert {"poisoned-state", "unexplained"} <= both
