"""The scenario families: each is its own regression test, and what agrees stays quiet.

Quick targets always; the others (``-m slow``) where their environments can be made.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bncheck.results import Results, read_results

FAMILIES = (
    "copied-momentum", "cumulative-average", "empty-batch", "eval-one-sample", "eval-then-train", "exact-input",
    "flush-twice", "layouts", "low-precision-long-run", "micro-batches", "mode-toggles", "offset", "overflow",
    "poison-and-recovery", "recompute", "reload", "value-counts", "without-parts",
)  # fmt: skip
# What each catches on torch, mxnet or between them and the reference: (scenario, case, causes).
CAUGHT = (
    ("copied-momentum", "copied", "batch-weight"),
    ("cumulative-average", "refused-batch", "counter-skew"),
    ("empty-batch", "base", "empty-batch"),
    ("eval-one-sample", "base", "single-value"),
    ("eval-then-train", "gone-back-through-after", "gradient"),
    ("low-precision-long-run", "bfloat16", "low-precision-stall"),
    ("micro-batches", "backward-at-the-end", "update-phase"),
    ("offset", "1e5", "normalise-arithmetic"),
    ("overflow", "base", "overflow"),
    ("poison-and-recovery", "inf", "poisoned-state"),
    ("recompute", "recomputed", "update-count"),
    ("reload", "no-counter-plain-average", "counter-skew"),
    ("value-counts", "1", "single-value"),
    ("without-parts", "running-statistics", "normaliser-source"),
)
SLOW = {
    "offset": ("flax", "haiku", "keras[torch]"),
    "value-counts": ("flax", "paddle"),
    "empty-batch": ("flax", "haiku", "keras[jax]"),
    "poison-and-recovery": ("flax",),
    "layouts": ("torch[channels_last]", "tf_keras"),
    "mode-toggles": ("paddle", "flax", "haiku"),
    "reload": ("paddle",),
}


def play(out: Path, scenarios: tuple[str, ...], targets: tuple[str, ...]) -> Results:
    words = [word for target in targets for word in ("-t", target)]
    command = [sys.executable, "-m", "bncheck", "run", *scenarios, *words, "--no-report", "--out", str(out)]
    done = subprocess.run([*command, "--fail-on", "never"], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return read_results(out)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return play(tmp_path_factory.mktemp("families") / "run", FAMILIES, ("reference", "torch", "mxnet"))


def unmet(results: Results) -> list[str]:
    return [
        f"{scenario.name} {expectation.when}: {expectation.causes or 'agree'}, found {expectation.found}"
        for scenario in results.scenarios
        for expectation in scenario.expectations
        if expectation.met is False
    ]


def test_every_expectation_that_applies_is_met(quick: Results) -> None:
    assert unmet(quick) == []


def test_no_difference_is_left_without_a_cause(quick: Results) -> None:
    left = [finding.title for finding in quick.findings if finding.cause == "unexplained"]
    assert left == []


def test_the_only_defect_is_the_gradient_of_an_eval_forward(quick: Results) -> None:
    """torch keeps its live running buffers for that backward; nothing else here breaks its own documentation."""
    defects = {(finding.scenario, finding.cause) for finding in quick.findings if finding.kind == "defect"}
    assert defects == {("eval-then-train", "gradient")}


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
