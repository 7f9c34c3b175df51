"""Networks of several layers on real frameworks: R0's second script, freezing, batch sizes in eval."""

from __future__ import annotations

from pathlib import Path

import left_by_cells
import numpy as np
import pytest
from at_the_prompt import here

from bncheck.finding import Finding
from bncheck.report import depth
from bncheck.report.origins import rows
from bncheck.run_folder.results import Results, read_results
from bncheck.scenario_files.shipped import SHIPPED

LAYERS = SHIPPED[1] / "layers"
SMALL = """
title = "A small network in eval, in batches of 1, 4 and 16"
why = "the shape of the reported networks, small enough for every test run"
[network]
model = "{model}.py:build"
arguments = {{ blocks = [2, 2], width = 16, embedding = 32 }}
[input]
shape = [16, 3, 32, 32]
[program]
events = [{{ event = "eval_in_batches", sizes = [1, 4, 16] }}]
[matrix]
"network.arguments.track_running_stats" = [true, false]
dtype = ["float32", "float64"]
[matrix.labels]
"network.arguments.track_running_stats" = ["kept", "batch"]
"""


def run(folder: Path, scenario: str, *targets: str, probe: bool = False) -> Results:
    # The reference may play nothing: whole models it cannot.
    words = [word for name in targets for word in ("--optional" if name == "reference" else "-t", name)]
    words += [] if probe else ["--no-probe"]
    done = here("run", scenario, *words, "--out", str(folder), "--no-report", "-q")
    assert done.returncode in (0, 1), done.stderr
    return read_results(folder)


def arrays_of(folder: Path, slug: str, case: str) -> dict[str, np.ndarray]:
    return left_by_cells.arrays_of(folder / "cells" / slug / case)


def findings(results: Results, case: str, cause: str) -> list[Finding]:
    return [item for item in results.findings if item.case == case and item.cause == cause]


# ------------------------------------------------------------------------------------- R0, second script


@pytest.fixture(scope="module")
def tail(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("tail") / "run"
    return folder, run(folder, "r0-tail", "reference", "torch[functional]", "reference[cudnn]", "mxnet", "torch")


POISONED = ("torch-functional", "reference-cudnn")


@pytest.mark.parametrize("slug", [*POISONED, "mxnet", "torch", "reference"])
@pytest.mark.parametrize("batch", ["batch-1", "batch-2"])
@pytest.mark.parametrize("layers", ["with-bn-tail", "without-bn-tail"])
def test_nan_only_in_the_embedding_of_one_sample_behind_a_batch_norm_tail(
    tail: tuple[Path, Results], slug: str, batch: str, layers: str
) -> None:
    folder, _ = tail
    found = arrays_of(folder, slug, f"r0-tail--{batch}--{layers}")
    nan = (slug, batch, layers) in [(each, "batch-1", "with-bn-tail") for each in POISONED]
    assert np.isnan(found["output/2"]).all() if nan else np.isfinite(found["output/2"]).all()
    refused = slug in ("torch", "reference") and (batch, layers) == ("batch-1", "with-bn-tail")
    assert ("output/0" in found) != refused
    if not refused:
        assert np.isfinite(found["output/0"]).all()
        assert found["output/0"].shape[-1] == 10
    assert found["output/2"].shape[-1] == 128, "eval returns the embedding"


def test_the_training_output_of_one_sample_is_zero_in_mxnet_and_nearly_so_in_the_operator(
    tail: tuple[Path, Results],
) -> None:
    case = "r0-tail--batch-1--with-bn-tail"
    assert not arrays_of(tail[0], "mxnet", case)["output/0"].any()
    assert np.abs(arrays_of(tail[0], "torch-functional", case)["output/0"]).max() < 1e-9


def test_the_finding_says_where_the_nan_was_born_and_where_it_shows(tail: tuple[Path, Results]) -> None:
    born = [item for item in findings(tail[1], "batch-1--with-bn-tail", "single-value") if item.layer == "bn1"]
    (finding,) = born
    assert (finding.kind, finding.event, finding.quantity) == ("hazard", 0, "running_var")
    assert set(finding.targets) == {"torch[functional]", "reference[cudnn]"}
    assert "while the output of that very forward is finite" in finding.title
    assert "eval_forward (event 3)" in finding.title
    assert finding.evidence["shows first in"] == "eval_forward (event 3)"


def test_a_later_layers_statistics_are_not_excused_as_rounding(tail: tuple[Path, Results]) -> None:
    """At n = 2 the divisors n and n - 1 are a factor of 2 apart; both BatchNorm layers have to say so."""
    drifts = [d for d in tail[1].drifts if d.case == "batch-2--with-bn-tail" and {d.a, d.b} == {"mxnet", "torch"}]
    assert {d.layer for d in drifts if d.quantity == "running_var" and d.relation == "differs"} == {"bn1", "bn2"}
    said = findings(tail[1], "batch-2--with-bn-tail", "unexplained")
    assert {layer for item in said for layer, _ in item.places} >= {"bn1", "bn2"}, (
        "without the probes nothing explains them, but they are seen"
    )


def test_all_networks_start_from_the_same_bits(tail: tuple[Path, Results]) -> None:
    first = [
        arrays_of(tail[0], slug, "r0-tail--batch-2--with-bn-tail") for slug in ("torch", "mxnet", "torch-functional")
    ]
    for name in ("bn1/running_mean", "bn2/running_var", "bn1/gamma"):
        assert len({found[name][0].astype(np.float32).tobytes() for found in first}) == 1
    assert all({"bn1/n", "bn2/n"} <= set(found) for found in first)


def test_the_reported_table_comes_out(tail: tuple[Path, Results]) -> None:
    table = {(case, target.split()[0].split("@")[0]): rest for _, case, target, *rest in rows(tail[1], tail[0])}
    assert len(table) == 20
    one, two = "batch 1, with BN tail", "batch 2, with BN tail"
    assert table[one, "mxnet"][0] == "exactly 0"
    assert table[one, "mxnet"][1] == "finite"
    assert table[one, "torch[functional]"][0].startswith("finite, at most")
    assert table[one, "torch[functional]"][1:] == [
        "NaN in running_var of bn1 since event 1 (train_forward)", "NaN everywhere",
    ]  # fmt: skip
    assert table[one, "torch"][0] == "refused: ValueError"
    assert not [rest for (case, _), rest in table.items() if case != one and "NaN" in " ".join(rest)]
    assert table[two, "mxnet"][2] != table[two, "torch"][2], "the embeddings differ: n against n - 1"
    assert all(row[2].endswith("(simulated)") for row in rows(tail[1], tail[0]) if "cudnn" in row[2])


# ------------------------------------------------------------------------------------------------ freezing


def test_freezing_says_what_really_happens(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    results = run(folder, "frozen", "torch", "reference")
    still = arrays_of(folder, "torch", "frozen--bn1-in-eval-inside-train")["bn1/running_mean"]
    assert (still == still[0]).all()
    assert not findings(results, "bn1-in-eval-inside-train", "mode-leak")
    assert not findings(results, "not-frozen", "mode-leak")
    (undone,) = findings(results, "bn1-in-eval-then-model.train", "mode-leak")
    assert (undone.kind, undone.layer, undone.event) == ("hazard", "bn1", 4)
    assert undone.evidence["events that moved its statistics"] == 3
    (affine,) = findings(results, "bn1-requires-grad-false", "mode-leak")
    assert "gamma and beta only" in affine.title
    frozen = arrays_of(folder, "torch", "frozen--bn1-requires-grad-false")
    assert np.isnan(frozen.get("bn1/grad_gamma", np.array([np.nan]))).all()
    assert (np.diff(frozen["bn1/running_mean"], axis=0) != 0).any(axis=1).sum() == 3
    (batch,) = findings(results, "bn1-without-running-statistics", "normaliser-source")
    assert (batch.kind, batch.layer) == ("hazard", "bn1")


# --------------------------------------------------------------------------------------- batch sizes in eval


@pytest.fixture(scope="module", params=["densenet", "resnet"])
def batches(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("batches")
    (folder / f"{request.param}.py").write_text((LAYERS / f"{request.param}.py").read_text())
    (folder / "small.toml").write_text(SMALL.format(model=request.param))
    return folder / "run", run(folder / "run", str(folder / "small.toml"), "torch", "torch[no_onednn]", "reference")


@pytest.mark.parametrize("slug", ["torch", "torch-no_onednn"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("float64", 1e-13)])
def test_with_running_statistics_every_batch_norm_is_invariant_to_the_bit(
    batches: tuple[Path, Results], slug: str, dtype: str, bound: float
) -> None:
    folder, results = batches
    found = arrays_of(folder, slug, f"small--kept--{dtype}")
    said = left_by_cells.result_of(folder / "cells" / slug / f"small--kept--{dtype}")["notes"]["0"]["depth"]
    norms = np.array(said["batch_norm"])
    assert norms.sum() >= 10
    assert said["sizes"] == [1, 4]
    assert not found["depth_own/0"][:, norms].any()
    assert found["depth_l1/0"].max() < bound
    assert not findings(results, f"kept--{dtype}", "normaliser-source")
    assert not findings(results, f"kept--{dtype}", "unexplained")


def test_rounding_names_a_layer_that_is_no_batch_norm(batches: tuple[Path, Results]) -> None:
    said = [item for item in findings(batches[1], "kept--float32", "rounding") if not item.sides]
    for item in said:
        assert "Conv2d)" in item.title or "Linear)" in item.title
        assert item.evidence["BatchNorm layers"] == item.evidence["of them invariant to the bit"]
    assert said, "32 × 32 images are enough for a convolution to add in another order"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_running_statistics_the_dependence_is_named(batches: tuple[Path, Results], dtype: str) -> None:
    (finding,) = findings(batches[1], f"batch--{dtype}", "normaliser-source")
    assert (finding.kind, finding.layer) == ("hazard", "norm")
    assert set(finding.targets) == {"torch", "torch[no_onednn]"}
    assert float(finding.evidence["L1 of 4 against 16"]) > 0.1
    assert not [item for item in findings(batches[1], f"batch--{dtype}", "rounding") if not item.sides]


def test_the_depth_of_a_network_is_written_and_drawn(batches: tuple[Path, Results]) -> None:
    written = depth.render(batches[1], batches[0])
    assert [path.suffix for path in written] == [".csv", *[".svg", ".png"] * 4]
    header, first, *_ = written[0].read_text().splitlines()
    assert header == "scenario,case,target,depth,layer,kind,size,against,max_abs,own_max_abs,scale"
    assert first.startswith("small,kept--float32,torch,1,conv,Conv2d,1,16,")


def test_a_whole_network_elsewhere_is_unsupported_with_the_reason(batches: tuple[Path, Results]) -> None:
    outcomes = {(cell.outcome, cell.error) for cell in batches[1].cells if cell.target == "reference"}
    assert outcomes == {("unsupported", "this backend does not take whole networks of your own (network.model)")}


@pytest.mark.slow
def test_the_reported_networks(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, "batch-invariance", "torch", "torch[no_onednn]")
    # float32 with and without oneDNN, float64, and 64-vs-4 without running statistics; measured before in another way
    # (8.0e-6, 2.5e-5, 1.9e-14, 6.5 and 1.9e-5, 5.6e-5, 2.0e-14, 7.7): the weights differ, the sizes must not.
    expected = {"densenet-169": (8.0e-6, 2.5e-5, 1.9e-14, 6.5), "resnet-50": (1.9e-5, 5.6e-5, 2.0e-14, 7.7)}
    for name, (with_onednn, without, double, dependence) in expected.items():
        head = f"batch-invariance--{name}--"
        rounded = [
            arrays_of(folder, slug, f"{head}running-statistics--{dtype}")["depth_l1/0"][0]
            for slug, dtype in (("torch", "float32"), ("torch-no_onednn", "float32"), ("torch", "float64"))
        ]
        for found, figure in zip(rounded, (with_onednn, without, double), strict=True):
            assert figure / 5 < found < figure * 5
        real = arrays_of(folder, "torch", f"{head}track-running-stats-false--float32")["depth_l1/0"][1]
        assert real == pytest.approx(dependence, rel=0.2)
