"""Own layers as public reports have them, played for real: every difference is said, and none passes as equivalent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from at_the_prompt import bncheck

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
    "Fused": ({"never-updated", "normaliser-source"}, "normalises with the running-before statistics"),
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


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return played(tmp_path_factory.mktemp("reported"), SCENARIO.format(layers=listed("Right", *WANTED)))


def listed(*layers: str) -> str:
    return ", ".join(f'"{LAYERS.name}:{name}"' for name in layers)


def played(folder: Path, scenario: str) -> Results:
    shutil.copy(LAYERS, folder)  # a scenario may name files of its own folder only
    (folder / "layers.toml").write_text(scenario, encoding="utf-8")
    done = bncheck("run", str(folder / "layers.toml"), "--no-report", "-q", "--out", str(folder / "run"))
    assert done.returncode == 1, done.stderr
    return read_results(folder / "run")


def about(results: Results, layer: str) -> list[Finding]:
    """Findings above rounding in the case of one layer."""
    (case,) = [case for scenario in results.scenarios if not scenario.probe for case in scenario.cases
               if str(case.matrix["network.custom"]).endswith(f":{layer}")]  # fmt: skip
    return [item for item in results.findings if item.case == case.name and item.kind != "rounding"]


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


@pytest.mark.parametrize(
    ("dtype", "layers", "wanted"),
    [
        ("bfloat16", f"[{BN}]", {"Negated": "output"}),
        ("float16", f"[{BN}]", {"Negated": "output"}),
        ("float32", f"[{CONV}, {BN}, {RELU}]", {"OneGradientLost": "grad_input", "OtherVariance": "running_var"}),
    ],
)
def test_nothing_hides_where_rounding_is_wide(tmp_path: Path, dtype: str, layers: str, wanted: dict[str, str]) -> None:
    found = played(tmp_path, WIDE.format(dtype=dtype, layers=layers, names=listed("Plain", *wanted)))
    assert audit(found) == ()
    assert about(found, "Plain") == []
    for layer, quantity in wanted.items():
        (defect,) = [item for item in about(found, layer) if item.kind == "defect"]
        assert (defect.quantity, defect.departs) == (quantity, "torch")


def test_a_layer_that_heals_what_the_built_in_one_keeps_is_not_equivalent(tmp_path: Path) -> None:
    text = SCENARIO.format(layers=listed("Right", "HealsNan", "HealsNanScaled"))
    text = text.replace("[program]", '[inputs.bad]\nshape = [32, 4]\npoison = "nan"\n[program]\nfirst = '
                        '[{ event = "train_forward", input = "bad" }]')  # fmt: skip
    found = played(tmp_path, text)
    assert audit(found) == ()
    assert not [item for item in about(found, "Right") if item.kind == "defect"]
    between = [item for item in about(found, "HealsNan") if item.between("torch", "torch[builtin]")]
    (healed,) = [item for item in between if item.cause == "poisoned-state"]
    assert (healed.kind, healed.departs, healed.departs_from) == ("defect", "torch", "the built-in layer")
    assert "gives finite outputs in eval_forward" in healed.title
    assert not [item for item in between if item.cause == "unexplained"]
    both = {item.cause for item in about(found, "HealsNanScaled") if item.between("torch", "torch[builtin]")}
    assert {"poisoned-state", "unexplained"} <= both
