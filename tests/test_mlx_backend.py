"""MLX on real MLX: what it does not do with an empty batch, and what it does."""

from __future__ import annotations

from pathlib import Path

from conftest import play

from bncheck.run_folder.results import read_results

SCENARIO = """
title = "A batch without samples"
why = "The sum over it may never end"
[network]
layers = [{ name = "bn", type = "batch_norm", channels = 3 }]
[input]
shape = [0, 3]
[program]
events = ["train_forward"]
[matrix]
"program.events" = [["train_forward"], ["eval_forward"]]
"""


def test_an_empty_batch_is_not_trained_on_and_is_evaluated(tmp_path: Path) -> None:
    """Eval sums nothing. Without the refusal this test hangs every other time, until the cell's time is over."""
    (tmp_path / "empty.toml").write_text(SCENARIO, encoding="utf-8")
    play(tmp_path / "run", "run", str(tmp_path / "empty.toml"), "-t", "mlx", "--no-reference", "--no-probe")
    trained, evaluated = read_results(tmp_path / "run").cells
    assert (trained.outcome, trained.error_type) == ("unsupported", "NotImplementedError")
    assert trained.error.endswith(
        "may not come to an end of the sum over an empty batch; the process could only be killed"
    )
    assert evaluated.outcome == "ok"
