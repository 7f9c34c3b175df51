"""Own layers and exports from the command line to their findings: each scenario carries its own expectation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from at_the_prompt import here
from conftest import CUSTOM, EXPORTS, printed
from torch_cells import python_of

from bncheck.diagnosis.audit import audit
from bncheck.run_folder.results import read_results

SCENARIOS = (*CUSTOM, *(name for name in EXPORTS if name != "onnx-fresh-network"))  # whose targets are two of one


@pytest.fixture(scope="module")
def results(custom_run: Path, export_run: Path) -> Any:
    """Scenarios and findings of both runs."""
    for variant in ("", "builtin", "onnx"):
        python_of(variant)
    found: dict[str, list[Any]] = {"scenarios": [], "findings": []}
    for run in (custom_run, export_run):
        assert printed(run)["code"] == 0, printed(run)
        assert audit(read_results(run)) == ()
        told = json.loads((run / "run.json").read_text(encoding="utf-8"))
        for what in found:
            found[what] += told[what]
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_the_author_expected_came_out(results: Any, name: str) -> None:
    scenario = next(item for item in results["scenarios"] if item["name"] == name)
    assert scenario["expectations"]
    for expectation in scenario["expectations"]:
        assert expectation["met"] is True, expectation


def causes_of(results: Any, scenario: str, case: str, kinds: tuple[str, ...] = ("defect", "hazard")) -> set[str]:
    return {
        finding["cause"]
        for finding in results["findings"]
        if finding["scenario"] == scenario and finding["case"] == case and finding["kind"] in kinds
    }


@pytest.mark.parametrize(
    "scenario, case",
    [
        ("custom-layer", "base"),
        ("custom-graph", "good--fb"),
        ("custom-graph", "in-place--fb"),
        ("export-dynamo", "frozen-layer"),
        ("export-legacy", "preserve"),
        ("complex-batchnorm", "two-tensors"),
        ("onnx-file", "base"),
        ("onnx-opsets", "9"),
    ],
)
def test_what_is_in_order_is_not_suspected(results: Any, scenario: str, case: str) -> None:
    assert causes_of(results, scenario, case, ("defect", "hazard", "unexplained")) == set()


def test_own_layer_from_the_command_line(tmp_path: Path) -> None:
    """The file is looked up from where the user stands."""
    python_of("")
    source = Path(__file__).parent.parent / "scenarios" / "layers" / "good_bn.py"
    (tmp_path / "mine.py").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    words = ["run", "custom-layer", "--set", "network.custom=mine.py:GoodBatchNorm2d", "-t", "torch", "-t", "reference"]
    done = here(*words, "--no-report", "-q", "--out", "run", "--no-probe", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert {cell["outcome"] for cell in found["cells"]} == {"ok"}


FORGETFUL = """
import torch

class Forgetful(torch.nn.BatchNorm2d):
    def forward(self, x):
        y = super().forward(x)
        return y if self.training else y - self.bias[None, :, None, None]
"""


def test_an_own_layer_that_forgets_beta_in_eval_is_not_equivalent(tmp_path: Path) -> None:
    python_of("")
    (tmp_path / "mine.py").write_text(FORGETFUL, encoding="utf-8")
    words = ["run", "custom-layer", "--set", "network.custom=mine.py:Forgetful", "-t", "torch", "-t", "torch[builtin]"]
    done = here(*words, "--no-report", "-q", "--out", "run", "--no-probe", cwd=tmp_path)
    assert done.returncode == 1
    assert "holds beta in bn without applying it in eval_forward (event 13)" in done.stderr
    assert "1 expectation did not come true" in done.stderr


def test_a_scenario_may_name_its_own_targets(tmp_path: Path) -> None:
    """Without -t, an ONNX file runs on onnxruntime against the oracle, not on torch and mxnet."""
    done = here("run", "onnx-file", "--no-report", "-q", "--no-probe", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert [target["name"] for target in found["targets"]] == ["reference", "onnxruntime"]


# What each version does with a network in eval whose bn is in training mode, and with training=TRAINING.
MOVES = "export_onnx moves running_mean of bn, as one training forward would"
OLD = {
    "torch[onnx]==1.13.1": ("export_onnx switches bn from training to eval", "from eval to training, and moves"),
    "torch[onnx]==1.1.0": (MOVES, ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", OLD)
def test_older_exporters_leak_too(tmp_path: Path, target: str) -> None:
    """1.1.0 was the reported version. Its trace runs a layer that is in training mode, and keeps its flag; asked for
    training it leaves every mode as it is."""
    words = ["export-legacy", "export-dynamo", "export-eval-net-train-bn", "-t", target, "-t", "reference"]
    words += ["--fail-on", "never", "--no-report", "-q", "--no-probe", "--out", str(tmp_path / "run")]
    done = here("run", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    leaks = {(item["scenario"], item["case"]): item["title"] for item in found["findings"]
             if item["cause"] == "mode-leak" and item["layer"] == "bn"}  # fmt: skip
    assert "export_onnx switches bn from eval to training" in leaks["export-legacy", "default"]
    assert OLD[target][1] in leaks.get(("export-legacy", "training"), "")
    assert bool(OLD[target][1]) == (("export-legacy", "training") in leaks)
    assert OLD[target][0] in leaks["export-eval-net-train-bn", "legacy"]
    dynamo = [cell for cell in found["cells"] if cell["scenario"] == "export-dynamo" and cell["target"] == target]
    assert {cell["outcome"] for cell in dynamo} == {"unsupported"}
    assert all("has no dynamo exporter" in cell["error"] for cell in dynamo)
