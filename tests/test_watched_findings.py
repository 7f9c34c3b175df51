"""Real training scripts, recorded: each planted fault is named with its layer and line, healthy ones are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from watched_lives import SCRIPTS, lives_of

from bncheck.diagnosis.alone import judge_lives

pytestmark = [pytest.mark.process, pytest.mark.slow]
# Script → (cause, the end of the first layer's name, file of the line that is named; "" where the fault has none).
WANTED = {
    "averaged_without_update_bn": ("stale-state", "1", "averaged_without_update_bn.py"),
    "batch_of_one": ("single-value", "4", "parts.py"),
    "copied_momentum": ("batch-weight", "4", ""),
    "ddp_different_statistics": ("synchronisation", "1", ""),
    "ema_without_buffers": ("stale-state", "1", "ema_without_buffers.py"),
    "eval_never_undone": ("mode-leak", "1", "eval_never_undone.py"),
    "freeze_keeps_moving": ("mode-leak", "1", "parts.py"),
    "layer_called_twice": ("shared-state", "norm", "layer_called_twice.py"),
    "layers_in_a_list": ("unregistered", "BatchNorm2d#1", "layers_in_a_list.py"),
    "loaded_without_buffers": ("stale-state", "1", "loaded_without_buffers.py"),
    "momentum_zero": ("never-updated", "1", ""),
    "nan_from_step_60": ("poisoned-state", "1", "parts.py"),
    "refused_at_once": ("single-value", "2", "refused_at_once.py"),
    "refused_batch": ("single-value", "2", "refused_batch.py"),
    "traced_in_eval": ("mode-leak", "1", "parts.py"),
    "traced_in_training": ("mode-leak", "1", "parts.py"),
    "trained_by_hand": ("mode-leak", "1", "trained_by_hand.py"),
    "scripted_eval_never_undone": ("mode-leak", "1", "scripted_eval_never_undone.py"),
    "scripted_own_never_undone": ("mode-leak", "1", "scripted_own_never_undone.py"),
    "recomputed": ("update-count", "1", "parts.py"),
}


# Faults that only a fit over moments tells: test_lives_watched.py.
FITTED = {"evaluation_not_scaled", "few_updates", "two_domains_evaluated", "two_kinds_in_turn"}


def test_every_script_with_a_fault_is_somewhere() -> None:
    assert {path.stem for path in (SCRIPTS / "faulty").glob("*.py")} == set(WANTED) | FITTED


@pytest.mark.parametrize("script", WANTED)
def test_a_planted_fault_is_named_at_its_layer_and_line(script: str, tmp_path: Path) -> None:
    cause, layer, file = WANTED[script]
    (found,) = judge_lives(lives_of(f"faulty/{script}", tmp_path))
    assert (found.cause, found.kind) == (cause, "hazard")
    assert found.layer.rpartition(".")[2] == layer  # what is in front of it tells two models of a program apart
    assert str(found.evidence.get("line", "")).rpartition(":")[0] == file


def test_the_line_that_made_a_layer_with_another_frameworks_momentum_is_named(tmp_path: Path) -> None:
    (found,) = judge_lives(lives_of("faulty/copied_momentum", tmp_path))
    assert (found.evidence["made at"], found.evidence["momentum"]) == ("copied_momentum.py:13", 0.99)
    assert found.advice.startswith("set momentum to 0.01, then re-estimate the statistics with torch.optim")


@pytest.mark.parametrize("script", ["traced_in_training", "traced_in_eval"])
def test_the_mode_of_a_trace_is_changed_by_tracing_alone(script: str, tmp_path: Path) -> None:
    (found,) = judge_lives(lives_of(f"faulty/{script}", tmp_path))
    assert "does not change" in found.title
    assert found.advice.startswith("train") and "trac" in found.advice


@pytest.mark.parametrize("script", sorted(path.stem for path in (SCRIPTS / "healthy").glob("*.py")))
def test_healthy_training_is_left_alone(script: str, tmp_path: Path) -> None:
    found = judge_lives(lives_of(f"healthy/{script}", tmp_path))
    assert [(item.cause, item.title) for item in found] == []
