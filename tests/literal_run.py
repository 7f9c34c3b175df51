"""A run folder made of literal numbers, as a worker and the analysis would leave it: no framework, no comparison.

The figures of R0 come from its formula: after k updates with weight 0.1 on all-ones input the running mean is
1 − 0.9^k and the running variance 0.9^k; a target that never moves stays at (0, 1).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.convention import Convention, Facet
from bncheck.evidence import Drift
from bncheck.finding import Finding
from bncheck.run_folder.results import (
    CaseResult,
    CellResult,
    Expectation,
    Results,
    ScenarioResult,
    TargetResult,
    write_results,
)

STEPS = 100
MOVED = 1 - 0.9 ** np.arange(STEPS + 1)
OFF, SPREAD = float(MOVED.mean()), float(MOVED.std())  # 0.90099 ± 0.20569
NAN = float("nan")
ADVICE = "Run a backward before you read or save the statistics."

TARGETS = (
    TargetResult("reference", "reference", "reference", version="0.1.0", python="3.11.9",
                 environment={"numpy": "2.4.6", "platform": "Linux"}),
    TargetResult("torch", "torch", "torch", version="2.13.0", python="3.11.9",
                 environment={"numpy": "2.4.6", "platform": "Linux", "threads": 2}),
    TargetResult("mxnet", "mxnet", "mxnet", version="1.9.1", python="3.11.9", environment={"numpy": "1.23.5"}),
    TargetResult("torch@cuda", "torch-cuda", "torch", device="cuda", status="unavailable",
                 reason="no CUDA device was found",
                 remedy="run bncheck on a machine with a GPU, then: bncheck compare"),
)  # fmt: skip


def drift(case: str, target: str, quantity: str, mean: float = 0.0, std: float = 0.0, **more: Any) -> Drift:
    facts: dict[str, Any] = {
        "scenario": "all-ones", "case": case, "a": "reference", "b": target, "layer": "bn", "quantity": quantity,
        "points": STEPS + 1, "mean_abs": mean, "std_abs": std, "max_abs": mean + std, "max_rel": mean,
        "max_ulp": mean * 2**23, "first_event": 0 if mean > 1e-5 else None, "nonfinite_a": 0, "nonfinite_b": 0,
        "relation": "differs" if mean > 1e-5 else "agrees", "dtype": "float32",
    }  # fmt: skip
    return Drift(**{**facts, **more})


def finding(**more: Any) -> Finding:
    facts: dict[str, Any] = {
        "code": "BN103", "cause": "update-phase", "kind": "convention",
        "title": "mxnet moves its running statistics in backward, reference in forward",
        "targets": ("mxnet", "reference"), "scenario": "all-ones", "case": "forward", "layer": "bn", "event": 0,
        "quantity": "running_mean", "explained": 1.0, "advice": ADVICE, "link": "https://mxnet.apache.org/",
        "evidence": {"points": 101, "replay residual": 6e-8},
        "not_identifiable": {"variance_divisor": "probe", "statistic": "probe"},
    }  # fmt: skip
    return Finding(**{**facts, **more})


SCENARIOS = (
    ScenarioResult(
        "all-ones", "All ones: the running mean must reach 1, the running variance 0",
        "apache/mxnet#18751: an operator that updates in backward looks like swapped statistics",
        "All-ones input cannot tell the variance divisor.",
        (
            CaseResult("forward", "forward", {"program.events": ["train_forward"]}, ("train_forward",) * STEPS,
                       inputs={"main": {"shape": [8, 3, 32, 32], "fill": "ones"}}),
            CaseResult("forward-backward", "forward + backward", {"program.events": ["train_forward", "backward"]},
                       ("train_forward", "backward") * STEPS, steps=tuple(range(1, 2 * STEPS, 2)),
                       inputs={"main": {"shape": [8, 3, 32, 32], "fill": "ones"}}),
        ),
        (
            Expectation(("mxnet", "torch"), ("update-phase",), when={"program.events": ["train_forward"]}, met=True,
                        found=("update-phase",)),
            Expectation(("torch", "torch@cuda"), (), True),
        ),
        rtol=1.3e-6, atol=1e-5,
    ),
    ScenarioResult("one-value", "One value per channel, then inference", "A batch of one after Flatten", "",
                   (CaseResult("base", "base", {}, ("train_forward", "backward", "eval_forward")),),
                   rtol=1.3e-6, atol=1e-5),
)  # fmt: skip


def results(**more: Any) -> Results:
    """R0 and one value per channel on three targets, with a fourth that is unavailable."""
    cells = []
    for scenario, case in (("all-ones", "forward"), ("all-ones", "forward-backward"), ("one-value", "base")):
        for target in TARGETS:
            cells.append(CellResult(scenario, case, target.name, target.slug, "ok", seconds=0.01))
            if target.status != "ok":
                cells[-1] = CellResult(scenario, case, target.name, target.slug, "unavailable", error=target.reason)
    refused = CellResult("one-value", "base", "torch", "torch", "raised", 0, "ValueError",
                         "Expected more than 1 value per channel when training", 0.01)  # fmt: skip
    cells[cells.index(CellResult("one-value", "base", "torch", "torch", "ok", seconds=0.01))] = refused
    drifts = [drift(case, target, quantity) for case in ("forward", "forward-backward") for target in ("torch", "mxnet")
              for quantity in ("running_mean", "running_var") if (case, target) != ("forward", "mxnet")]  # fmt: skip
    drifts += [drift("forward", "mxnet", quantity, OFF, SPREAD) for quantity in ("running_mean", "running_var")]
    drifts += [
        drift("base", "mxnet", "running_var", NAN, NAN, scenario="one-value", first_event=0, points=4,
              nonfinite_b=9, relation="nonfinite"),
        drift("base", "torch", "events", NAN, NAN, scenario="one-value", layer="", first_event=0, points=3,
              nonfinite_b=1, relation="refused"),
    ]  # fmt: skip
    conventions = (
        Convention("mxnet", "4-D", {
            "update_on": Facet("backward", residual=6e-8, runner_up="forward", runner_up_residual=0.9,
                               documented="forward", link="https://mxnet.apache.org/", agrees=False),
            "batch_weight": Facet(0.1, residual=1e-8, runner_up="0.9", runner_up_residual=0.8,
                                  documented=0.1, agrees=True),
            "variance_divisor": Facet(None, identifiable=False, reason="n = 1 cannot tell"),
        }, {"batch_weight": "momentum=0.9"}),
        Convention("torch", "4-D", {"update_on": Facet("forward", residual=2e-8, documented="forward", agrees=True)}),
    )  # fmt: skip
    findings = (
        finding(),
        finding(code="BN301", cause="poisoned-state", kind="defect", departs="mxnet", departs_from="arithmetic",
                title="mxnet stores NaN in running_var after one value per channel", scenario="one-value",
                case="base", quantity="running_var", explained=None, not_identifiable={}, link="",
                evidence={"n": 1, "running_var": NAN}),
    )  # fmt: skip
    facts: dict[str, Any] = {
        "version": "0.1.0", "command": "bncheck run all-ones one-value", "created": "2026-01-02T03:04:05Z",
        "targets": TARGETS, "scenarios": SCENARIOS, "cells": tuple(cells), "drifts": tuple(drifts),
        "conventions": conventions, "findings": findings, "named_yardstick": "reference",
    }  # fmt: skip
    return Results(**{**facts, **more})


def write_run(folder: Path, run: Results | None = None) -> Results:
    """Write a run folder: run.json, and a trace (mxnet's with its replay) in each cell that ran."""
    run = results() if run is None else run
    folder.mkdir(parents=True, exist_ok=True)
    write_results(run, folder)
    for cell in run.cells:
        if cell.outcome == "unavailable":
            continue
        place = folder / "cells" / cell.slug / f"{cell.scenario}--{cell.case}"
        place.mkdir(parents=True, exist_ok=True)
        arrays = trajectory(cell)
        np.savez(place / "trace.npz", **arrays)
        if cell.target == "mxnet":
            np.savez(place / "replay.npz", **{k: v.astype(float) for k, v in arrays.items() if "running" in k})
        failed = [{"event": 0, "op": "train_forward", "status": "raised", "error_type": "ValueError", "error": "x"}]
        outcome = {"protocol": 1, "outcome": cell.outcome, "failed": failed if cell.outcome == "raised" else []}
        (place / "result.json").write_text(json.dumps(outcome))
    return run


def trajectory(cell: CellResult) -> dict[str, Any]:
    """The state arrays of one cell, (T + 1, 3)."""
    if cell.scenario == "one-value":
        moved = np.array([0, 0.1, 0.1, 0.1]) if cell.target != "torch" else np.zeros(4)
        variance = np.array([1, NAN, NAN, NAN]) if cell.target == "mxnet" else np.ones(4)
    elif cell.case == "forward":
        moved = np.zeros(STEPS + 1) if cell.target == "mxnet" else MOVED
        variance = 1 - moved
    else:
        # After every forward and every backward; mxnet moves in the second, the others in the first.
        late = np.repeat(MOVED, 2)[: 2 * STEPS + 1]
        moved = late if cell.target == "mxnet" else np.append(0.0, np.repeat(MOVED[1:], 2))
        variance = 1 - moved
    mean = np.repeat(moved[:, None], 3, axis=1).astype(np.float32)
    var = np.repeat(variance[:, None], 3, axis=1).astype(np.float32)
    if cell.target == "torch":
        mean = mean * np.float32(1 + 2**-23)
    return {"bn/running_mean": mean, "bn/running_var": var, "bn/n": np.full(len(mean) - 1, 8 * 1024)}
