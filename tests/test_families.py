"""The scenario families: each is its own regression test, and what agrees stays quiet.

Quick targets always; the others (``-m slow``) where their environments can be made.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from at_the_prompt import here
from conftest import FAMILIES, printed
from torch_cells import python_of

from bncheck.diagnosis.audit import audit
from bncheck.environments.backend_file import find_backends
from bncheck.run_folder.results import Results, read_results

# What each catches on torch, mxnet or between them and the reference: (scenario, case, causes).
CAUGHT = (
    ("case-order", "seed-1", "order-dependence"),
    ("copied-momentum", "copied", "batch-weight"),
    ("cumulative-average", "refused-batch", "counter-skew"),
    ("empty-batch", "base", "empty-batch"),
    ("eval-one-sample", "base", "single-value"),
    ("eval-then-train", "gone-back-through-after", "gradient"),
    ("freezing", "base", "mode-leak"),
    ("gan-forwards", "fake-data-far-away", "update-count"),
    ("layer-used-twice", "one-layer", "shared-state"),
    ("low-precision-long-run", "bfloat16", "low-precision-stall"),
    ("micro-batches", "backward-at-the-end", "update-phase"),
    ("model-copies", "averaged-buffers", "stale-state"),
    ("model-copies", "ema-parameters", "stale-state"),
    ("offset", "1e5", "normalise-arithmetic"),
    ("overflow", "base", "overflow"),
    ("poison-and-recovery", "inf", "poisoned-state"),
    ("recompute", "recomputed", "update-count"),
    ("reload", "no-counter-plain-average", "counter-skew"),
    ("shared-buffers", "assign", "shared-state"),
    ("shared-buffers", "export", "shared-state"),
    ("train-eval-gap", "5-steps-of-weight-0.01", "few-updates"),
    ("train-eval-gap", "50-steps-of-weight-0.01", "few-updates"),
    ("value-counts", "1", "single-value"),
    ("without-parts", "running-statistics", "normaliser-source"),
)
SLOW = {
    "offset": ("flax", "haiku", "keras[torch]"),
    "value-counts": ("flax", "paddle"),
    "empty-batch": ("flax", "haiku", "keras[jax]"),
    "poison-and-recovery": ("flax",),
    "freezing": ("paddle", "keras", "tf_keras"),
    "layouts": ("torch[channels_last]", "tf_keras"),
    "strided": ("torch[channels_last]", "paddle", "mlx"),
    "mode-toggles": ("paddle", "flax", "haiku"),
    "reload": ("paddle",),
}


def play(out: Path, scenarios: tuple[str, ...], targets: tuple[str, ...]) -> Results:
    words = [word for target in targets for word in ("-t" if target == "reference" else "--optional", target)]
    done = here("run", *scenarios, *words, "--no-report", "--out", str(out), "--fail-on", "never")
    assert done.returncode == 0, done.stdout + done.stderr
    return read_results(out)


@pytest.fixture(scope="module")
def quick(family_run: Path) -> Results:
    assert printed(family_run)["code"] == 0, printed(family_run)
    return read_results(family_run)


def unmet(results: Results) -> list[str]:
    return [
        f"{scenario.name} {expectation.when}: {expectation.causes or 'agree'}, found {expectation.found}"
        for scenario in results.scenarios
        for expectation in scenario.expectations
        if expectation.met is False
    ]


def test_every_expectation_that_applies_is_met(quick: Results) -> None:
    assert unmet(quick) == []


def test_nothing_differs_silently(quick: Results, replicas: Results) -> None:
    assert audit(quick) == audit(replicas) == ()


def test_no_difference_is_left_without_a_cause(quick: Results) -> None:
    found = [finding for finding in quick.findings if finding.scenario in FAMILIES]
    assert [finding.title for finding in found if finding.cause == "unexplained"] == []


def test_the_only_defects_are_the_gradient_of_an_eval_forward_and_what_outlives_a_layer(quick: Results) -> None:
    """torch keeps its live running buffers for that backward; nothing else here breaks its own documentation."""
    found = [finding for finding in quick.findings if finding.scenario in FAMILIES]
    assert {(finding.scenario, finding.cause) for finding in found if finding.kind == "defect"} == {
        ("case-order", "order-dependence"),
        ("eval-then-train", "gradient"),
    }


@pytest.mark.parametrize(("scenario", "case", "cause"), CAUGHT)
def test_a_family_catches_a_live_problem(quick: Results, scenario: str, case: str, cause: str) -> None:
    causes = {finding.cause for finding in quick.findings if (finding.scenario, finding.case) == (scenario, case)}
    assert cause in causes


def test_exact_input_leaves_no_rounding_in_the_running_mean(quick: Results) -> None:
    sizes = [
        drift.max_abs for drift in quick.drifts if drift.scenario == "exact-input" and drift.quantity == "running_mean"
    ]
    assert len(sizes) == 9  # three pairs, three ranks
    assert set(sizes) == {0.0}


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two real processes for each of the two torch targets, tied together by gloo."""
    out = tmp_path_factory.mktemp("replicas") / "run"
    return play(out, ("replicas",), ("reference", "torch[ddp]", "torch[ddp_local]", "torch[ddp_sync]", "torch"))


def test_replicas_are_named_with_what_each_of_them_saw(replicas: Results) -> None:
    """The figures of pytorch/pytorch#1051: one part is N(0, 1), the other N(10, 1), weight 0.1, 200 steps."""
    assert unmet(replicas) == []
    found = {
        finding.targets: finding
        for finding in replicas.findings
        if (finding.case, finding.cause) == ("unlike-parts", "synchronisation")
    }
    assert set(found) == {("torch[ddp]",), ("torch[ddp_local]",)}
    for finding in found.values():
        assert finding.explained == pytest.approx(1.0, abs=1e-4)
        assert abs(float(finding.evidence["running_mean of replica 0"])) < 0.5
        assert float(finding.evidence["running_mean of whole batches"]) == pytest.approx(5, abs=0.1)
        assert float(finding.evidence["variance of whole batches"]) == pytest.approx(26, abs=0.5)
    # Replica 1 takes one step from replica 0's mean towards 10, or goes there.
    ends = [float(found[name,].evidence["running_mean of replica 1"]) for name in ("torch[ddp]", "torch[ddp_local]")]
    assert ends == pytest.approx([1.0, 10.0], abs=0.3)


def test_what_replicas_cannot_do_is_said(replicas: Results) -> None:
    targets = {target.name: target for target in replicas.targets}
    assert targets["torch[ddp_sync]"].status == "unavailable"
    assert "SyncBatchNorm runs on a GPU for each replica only" in targets["torch[ddp_sync]"].reason
    outcomes = {cell.outcome for cell in replicas.cells if cell.target == "torch" and cell.scenario == "replicas"}
    assert outcomes == {"unsupported"}


def test_nothing_else_is_said_about_replicas(replicas: Results) -> None:
    causes = {finding.cause for finding in replicas.findings if finding.scenario == "replicas"}
    assert causes == {"synchronisation"}


TWO_WAYS = """
import importlib.util, json, sys, threading
import numpy as np
spec = importlib.util.spec_from_file_location("backend", sys.argv[1])
backend = importlib.util.module_from_spec(spec)
spec.loader.exec_module(backend)
backend.describe("ddp_local", "cpu")
layer = dict(name="bn", type="batch_norm", channels=1, axis=1, rank=2, batch_weight=0.5, eps=1e-5, affine=True,
             averaging="exponential", track_running_stats=True, options={}, native={}, same_as=None)
network = {"layers": [layer], "replicas": [2, 2]}
batch = np.array([[0.0], [2.0], [10.0], [14.0]], np.float32)

def played():
    model = backend.build(network, {}, "float32", "ddp_local", "cpu")
    model.forward(batch, "train_forward")
    means = [float(model.state(name)["running_mean"][0]) for name in model.layers]
    return type(model.gang.others[0]).__name__, means

found = [played()]
backend.part("replicas").Gang.current.end()
end = threading.Event()
threading.Thread(target=end.wait).start()
found.append(played())
end.set()
print(json.dumps(found))
"""


@pytest.mark.slow  # one of the two replicas imports torch once more
def test_replicas_are_forks_of_a_process_of_one_thread_and_processes_of_their_own_beside_others() -> None:
    path = str(find_backends(())["torch"].path)
    words = [str(python_of("")), "-c", TWO_WAYS, path]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert json.loads(done.stdout) == [["Fork", [0.5, 6.0]], ["Popen", [0.5, 6.0]]]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", sorted(SLOW))
def test_the_same_on_heavier_targets(tmp_path: Path, scenario: str) -> None:
    results = play(tmp_path / "run", (scenario,), ("reference", "torch", *SLOW[scenario]))
    usable = {target.name for target in results.targets if target.status == "ok"}
    if usable == {"reference", "torch"}:
        pytest.skip("none of the heavier targets can run here")
    assert unmet(results) == []
    # Nothing unexplained wherever a framework's own figures are judged against the reference.
    assert [f.title for f in results.findings if f.cause == "unexplained"] == []
