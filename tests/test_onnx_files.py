"""Existing ONNX files (network.file): the oracle of each opset, plays on onnxruntime, and files that are no good."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here
from torch_cells import BACKENDS, Cell, cases_of, read_cell

from bncheck.environments.pythons import Ready, prepare
from bncheck.environments.targets import Target
from bncheck.playing.cases_file import write_cases
from bncheck.playing.job import Job, Limits
from bncheck.playing.workers import play
from bncheck.scenario import Case
from bncheck.scenario_files.inputs import make_inputs
from bncheck.scenario_files.model_file import shape_that_runs, with_input_of_file
from bncheck.scenario_files.shipped import SHIPPED
from bncheck.subjects.onnx import in_words_of_check, row
from bncheck.worker.onnx_side import file as onnx_file
from bncheck.worker.onnx_side import judge as onnx_judge
from bncheck.worker.onnx_side import oracle as onnx_oracle

GENERATOR = Path(__file__).parent / "tools" / "onnx_files.py"
# File: (words of onnxruntime's answer, words of the oracle's); () = it plays the file.
BAD: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "truncated": (("raised", "truncated.onnx", "truncated"),) * 2,
    "corrupt": (("raised", "corrupt.onnx", "damaged"),) * 2,
    "text": (("raised", "text.onnx"),) * 2,
    "empty": (("raised", "empty.onnx is empty"),) * 2,
    "huge": (("raised", "2147483649 bytes", "at most 2147483647", "external data"),) * 2,
    "climbs-out": (("raised", "the weight w lies in '../elsewhere.bin'", "no file beside the model"),) * 2,
    "fixed-shape": (("raised", "the shape [1, 2, 8, 8]", "say --set input.shape=[1, 2, 8, 8]"),) * 2,
    "opset999": (
        ("raised", "onnxruntime refuses the file", "999"),
        ("unsupported", "declares opset 999", "from opset 7 to 28"),
    ),
    "opset6": (("unsupported", "onnxruntime has no kernel", "BatchNormalization(6)"), ("unsupported", "opset 6")),
    "three-outputs-opset9": (
        ("raised", "onnxruntime refuses the file"),
        ("raised", "features.bn has 3 outputs; BatchNormalization of opset 9 has 1 or 5"),
    ),
    "training-one-output": (
        ("raised", "onnxruntime refuses the file", "should be 3 when Training_mode = True"),
        ("raised", "features.bn has 1 outputs", "opset 15 with training_mode = 1 has 3"),
    ),
    "opset9-mixed": (
        ("raised", "onnxruntime refuses the file"),
        ("raised", "the input mean is float32 and X is float16", "opset 9 has one type for both"),
    ),
    "float16-opset14-mixed": (
        ("raised", "onnxruntime refuses the file"),
        ("raised", "the input scale is float32 and X is float16", "opset 14 has one type for both"),
    ),
    "more-values-than-channels": (
        ("raised", "onnxruntime refuses the file"),
        ("raised", "bn gets 2 channels (its input X has the shape [4, 2, 6, 6]) and has 3 values in its input scale"),
    ),
    "parameter-left-out": (("raised", "a BatchNormalization node has 4 inputs; it takes 5"),) * 2,
    "shapes-that-do-not-meet": (
        ("raised", "running Add node. Name:'last'"),
        ("raised", "the Add node 'last' does not take the shapes [4, 2, 6, 6], [5]"),
    ),
    "other-operator": ((), ("unsupported", "no operator Softsign (node 'extra')")),
    "draws-at-random": ((), ("unsupported", "the RandomUniformLike node 'extra' draws at random")),
    "dropout-training": ((), ("unsupported", "the Dropout node 'drop' drops at random")),
}
GOOD = ("opset7", "opset9", "opset9-training", "opset14", "opset14-training", "opset15", "opset15-training", "opset22",
        "no-batch-norm", "hard-sigmoid", "minus-one", "zero", "on-a-constant", "fresh-training",
        "computed-variance", "scale-of-the-batch",
        "dropout-eval", "nan-variance", "negative-variance", "far-mean", "float16-opset15")  # fmt: skip


def python_of(backend: str) -> Path:
    answer = prepare([Target(backend)], BACKENDS)[Target(backend)]
    if not isinstance(answer, Ready):
        pytest.skip(f"{backend}: {answer.reason}. Remedy: {answer.remedy}")
    return answer.python


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    subprocess.run([python_of("onnxruntime"), str(GENERATOR), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def cases(files: Path) -> dict[str, Case]:
    (case,) = cases_of("onnx-file").values()
    return {
        name: replace(case, name=name, network=replace(case.network, file=str(files / f"{name}.onnx")))
        for name in (*BAD, *GOOD, "gone", "softsign-fresh-training", "normalised-softsign", "negated-variance")
    }


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory, cases: dict[str, Case]) -> dict[tuple[str, str], Cell]:
    folder, backends = tmp_path_factory.mktemp("run"), ("onnxruntime", "reference")
    write_cases(folder, list(cases.values()))
    ids = tuple(case.id for case in cases.values())
    jobs = [
        Job(name, folder / "cells" / name, python_of(name), BACKENDS[name].path, "", "cpu", ids, Limits(60.0))
        for name in backends
    ]
    assert not play(jobs, 1, lambda progress: None)
    return {(job.target, case.name): read_cell(job.folder / case.id) for job in jobs for case in cases.values()}


@pytest.mark.parametrize("target", ["onnxruntime", "reference"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_marked_cell_with_a_sentence(
    cells: dict[tuple[str, str], Cell], target: str, name: str
) -> None:
    words = BAD[name][target == "reference"]
    cell = cells[target, name]
    if not words:
        assert cell.result.outcome == "ok", cell.errors
        return
    assert cell.result.outcome == words[0], cell.result.error
    if target == "reference":
        assert cell.result.origin == ("subject" if words[0] == "raised" else "")
    for word in words[1:]:
        assert word in cell.result.error
    assert "\n" not in cell.result.error.strip()
    assert "Traceback" not in cell.result.error


def test_a_file_that_is_not_there(cells: dict[tuple[str, str], Cell]) -> None:
    assert "there is no file" in cells["reference", "gone"].result.error


@pytest.mark.parametrize("name", GOOD)
def test_onnxruntime_and_the_oracle_play_the_same(cells: dict[tuple[str, str], Cell], name: str) -> None:
    ours, theirs = cells["reference", name], cells["onnxruntime", name]
    assert ours.result.outcome == theirs.result.outcome == "ok", (ours.errors, theirs.errors)
    assert set(ours.arrays) == set(theirs.arrays)
    loose = {"float16-opset15": 2e-2, "far-mean": 0.2}.get(name, 2e-5)
    for key in ours.arrays:
        if key not in ("event_seconds",) and not key.endswith(("used_mean", "used_invstd", "used_residual")):
            np.testing.assert_allclose(theirs.arrays[key], ours.arrays[key], rtol=loose, atol=loose, err_msg=key)


def by_hand(case: Case, files: Path, *, trains: tuple[bool, ...]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Outputs of BatchNormalization and the final statistics, written out for the one file there is, in float64."""
    numbers = np.arange(3 * 2 * 3 * 3)
    weight = ((numbers * 7) % 61 - 30).reshape(3, 2, 3, 3) / 16.0
    mean, var = np.array([0.125, 0.25, -0.5]), np.array([1.0, 2.0, 0.25])
    keep, eps = float(np.float32(0.9)), float(np.float32(1e-3))
    found = []
    for event, training in zip(case.events, trains, strict=True):
        x = make_inputs(case)["x/main"][event.batch].astype(np.float64)
        patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
        y = np.einsum("nchwij,ocij->nohw", patches, weight)
        used = (mean, var)
        if training:
            used = y.mean(axis=(0, 2, 3)), y.var(axis=(0, 2, 3))
            mean, var = keep * mean + (1 - keep) * used[0], keep * var + (1 - keep) * used[1]
        found.append((y - used[0][:, None, None]) / np.sqrt(used[1] + eps)[:, None, None])
    return found, mean, var


@pytest.mark.parametrize("opset", ["opset9", "opset14", "opset15"])
@pytest.mark.parametrize("trained", [False, True])
def test_the_oracle_is_the_text_of_the_opset(
    cells: dict[tuple[str, str], Cell], cases: dict[str, Case], files: Path, opset: str, trained: bool
) -> None:
    """forward takes the file's mode, eval_forward and train_forward their own; running = 0.9 · old + 0.1 · batch."""
    name = f"{opset}-training" if trained else opset
    case, arrays = cases[name], cells["reference", name].arrays
    assert [event.op for event in case.events] == ["forward", "eval_forward", *["train_forward"] * 3, "eval_forward"]
    normalised, mean, var = by_hand(case, files, trains=(trained, False, True, True, True, False))
    np.testing.assert_allclose(arrays["features.bn/running_mean"][-1], mean, rtol=1e-12)
    np.testing.assert_allclose(arrays["features.bn/running_var"][-1], var, rtol=1e-12)
    gamma, beta = np.array([1.0, 2.0, 0.5]), np.array([0.0, 1.0, -1.0])
    linear = ((np.arange(12) * 11) % 61 - 30).reshape(4, 3) / 16.0
    bias = ((np.arange(4) * 5) % 61 - 30) / 16.0
    for event, hat in enumerate(normalised):
        y = np.maximum(hat * gamma[:, None, None] + beta[:, None, None], 0).mean(axis=(2, 3)) @ linear.T + bias
        np.testing.assert_allclose(arrays[f"output/{event}"], y, rtol=1e-10, atol=1e-12)


def test_what_the_file_declares_is_noted(cells: dict[tuple[str, str], Cell]) -> None:
    for target in ("onnxruntime", "reference"):
        facts = cells[target, "opset14-training"].result.notes["cell"]["file"]
        assert (facts["opset"], facts["producer"], facts["dtype"]) == (14, "bncheck", "float32")
        assert facts["nodes"]["BatchNormalization"] == 1
        (norm,) = facts["batch_norms"]
        assert (norm["name"], norm["training"], norm["outputs"]) == ("features/bn", True, 3)
        assert norm["eps"] == pytest.approx(1e-3)
    dropouts = cells["onnxruntime", "dropout-training"].result.notes["cell"]["file"]["dropouts"]
    assert dropouts == [{"name": "drop", "training": True, "drops": True, "used": True}]


def test_optimised_and_without_optional_outputs(cells: dict[tuple[str, str], Cell]) -> None:
    plays = cells["onnxruntime", "opset15"].result.notes["cell"]["file"]["plays"]
    assert [play["mode"] for play in plays] == ["as_is", "eval", "train", "train", "train", "eval"]
    assert all(0 <= play[key] < 1e-4 for play in plays for key in ("optimised", "unused", "optimised_unused"))
    assert all("optimised_statistics" in play for play in plays if play["mode"] == "train")
    far = plays_of(cells, "far-mean")
    assert far[0]["optimised"] > 1e-3, "folding takes the far mean out before it costs digits"
    assert far[0]["unused"] == 0.0
    assert far[0]["off"]["recorded"] > 1e-3
    assert far[0]["off"]["optimised"] < 1e-5, "it is the plain play that loses digits"


def plays_of(cells: dict[tuple[str, str], Cell], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cells["onnxruntime", name].result.notes["cell"]["file"]["plays"]
    return found


def test_float64_says_which_play_is_right_and_one_optimiser_is_named(cells: dict[tuple[str, str], Cell]) -> None:
    """onnxruntime 1.31.1 shares the equal initial values of a fresh network, and its training kernel writes to them."""
    as_is = plays_of(cells, "fresh-training")[0]
    assert as_is["off"]["recorded"] < 1e-5
    assert as_is["off"]["optimised"] > 1
    assert as_is["second_run"] > 1, "the weights of the session are not what they were"
    assert as_is["optimisers"] == ["ConstantSharing"]


def test_nodes_are_judged_alone_where_the_oracle_lacks_an_operator(cells: dict[tuple[str, str], Cell]) -> None:
    plays = plays_of(cells, "softsign-fresh-training")
    assert plays[0]["no_oracle"] == "the oracle has no operator Softsign (node 'last')"
    assert all(0 <= play["nodes"][layer] <= 1 for play in plays for layer in ("bn1", "bn2"))
    assert plays[0]["optimised_nodes"]["bn1"] > 1000


def test_a_node_before_what_the_oracle_lacks_is_judged_too(cells: dict[tuple[str, str], Cell]) -> None:
    """The node reads the input of the file itself."""
    plays = plays_of(cells, "normalised-softsign")
    assert plays[0]["no_oracle"] == "the oracle has no operator Softsign (node 'last')"
    assert len(plays) == 6
    assert all(0 <= play["nodes"]["bn"] <= 1 for play in plays)


def test_a_parameter_that_the_graph_computes(cells: dict[tuple[str, str], Cell]) -> None:
    """Of constants it is what they give; of the batch it is no state of the layer."""
    for target in ("onnxruntime", "reference"):
        of_constants = cells[target, "computed-variance"].arrays
        np.testing.assert_array_equal(of_constants["bn/running_var"][0], [4.0, 9.0])
        assert np.isfinite(of_constants["bn/running_var"]).all()
        of_the_batch = cells[target, "scale-of-the-batch"].arrays
        assert "bn/gamma" not in of_the_batch
        np.testing.assert_array_equal(of_the_batch["bn/running_var"][0], [2.0, 3.0])
    unknown = cells["onnxruntime", "negated-variance"].arrays
    np.testing.assert_array_equal(unknown["bn/running_var"][0], [-2.0, -3.0]), "computed by onnxruntime itself"


def test_a_scale_of_the_batch_is_that_of_each_batch(cells: dict[tuple[str, str], Cell], cases: dict[str, Case]) -> None:
    case, arrays = cases["scale-of-the-batch"], cells["reference", "scale-of-the-batch"].arrays
    x = make_inputs(case)["x/main"][case.events[-1].batch].astype(np.float64)
    mean, var = (arrays[f"bn/{what}"][-1][:, None, None] for what in ("running_mean", "running_var"))
    y = (x - mean) / np.sqrt(var + float(np.float32(1e-5))) * (1.0 + x.mean(axis=(0, 2, 3)))[:, None, None]
    np.testing.assert_allclose(arrays[f"output/{len(case.events) - 1}"], y, rtol=1e-10, atol=1e-12)


def test_a_forward_that_raises_moves_nothing(cells: dict[tuple[str, str], Cell]) -> None:
    rows = cells["reference", "shapes-that-do-not-meet"].arrays["bn/running_var"]
    np.testing.assert_array_equal(rows, [[2.0, 3.0]] * len(rows))


def test_a_batch_mean_of_zero_is_no_reason_for_a_difference(cells: dict[tuple[str, str], Cell]) -> None:
    """The second layer's mean is 0 in real arithmetic: 1e-9 of rounding beside another 1e-9."""
    trained = [play for play in plays_of(cells, "hard-sigmoid") if play["mode"] == "train"]
    assert len(trained) == 3
    assert all(play["optimised_statistics"] < 1e-5 for play in trained)
    names = {"m": ("bn", "running_mean"), "v": ("bn", "running_var")}
    compared = onnx_judge.Compared(["y"], names, {"bn": 0.0})
    right = {"y": np.ones(2), "m": np.array([0.0, 3.0]), "v": np.array([4.0, 1.0])}
    rounded = {**right, "m": np.array([2e-9, 3.0])}
    wrong = {**right, "m": np.array([1.0, 3.0])}
    assert onnx_judge.apart(compared, rounded, right) == [0.0, 1e-9]
    assert onnx_judge.apart(compared, wrong, right) == [0.0, 0.5], "1 beside a standard deviation of 2"
    assert onnx_judge.apart(compared, {**right, "v": np.array([5.0, 1.0])}, right) == [0.0, 0.25]
    assert onnx_judge.apart(compared, {**right, "v": np.array([np.nan, 1.0])}, right) == [0.0, "inf"]


def test_a_node_that_no_batch_reaches_or_nothing_reads(cells: dict[tuple[str, str], Cell]) -> None:
    nodes = cells["reference", "on-a-constant"].result.notes["cell"]["file"]["batch_norms"]
    said = {node["name"]: (node["training"], node["fed"], node["used"]) for node in nodes}
    assert said == {"of.constant": (True, False, True), "unread": (True, True, False)}


@pytest.mark.parametrize("name", ["minus-one", "zero", "hard-sigmoid"])
def test_a_size_of_minus_one_or_zero_or_with_a_name_is_open(files: Path, name: str) -> None:
    assert onnx_file.read(str(files / f"{name}.onnx")).inputs == {"x": ("float32", (None, 2, 6, 6))}


def test_a_runtime_that_takes_a_size_of_zero_literally_is_named(cells: dict[tuple[str, str], Cell]) -> None:
    facts = {name: cells["onnxruntime", name].result.notes["cell"]["file"] for name in ("zero", "minus-one")}
    assert (facts["zero"]["closed"], facts["minus-one"]["closed"]) == (["x"], [])


def test_shape_and_type_come_from_the_file(files: Path) -> None:
    """What the file leaves open is the scenario's [4, 2, 6, 6]; what the user sets rules."""
    scenario = SHIPPED[1] / "onnx-file.toml"
    fixed, half, free = (str(files / f"{name}.onnx") for name in ("fixed-shape", "float16-opset15", "minus-one"))
    assert with_input_of_file({"network.file": fixed}, scenario) == {"network.file": fixed, "input.shape": [1, 2, 8, 8]}
    assert with_input_of_file({"network.file": half}, scenario) == {"network.file": half, "dtype": "float16"}
    assert with_input_of_file({"network.file": free}, scenario) == {"network.file": free}
    said = {"network.file": fixed, "input.shape": [3, 2, 6, 6]}
    assert with_input_of_file(said, scenario) == said
    gone = {"network.file": str(files / "gone.onnx")}
    assert with_input_of_file(gone, scenario) == gone
    assert onnx_file.fitting(onnx_file.read(free), [4, 5, 7]) == [2, 2, 6, 6], "another number of axes"


def test_an_open_image_is_as_large_as_the_network_needs() -> None:
    """Three poolings of 2 by 2 leave nothing of 6 by 6; a file with an unknown operator gets 64 by 64."""
    graph = onnx_file.Graph("model.onnx")
    graph.opset, graph.outputs, names = 17, ["p3"], ("x", "p1", "p2", "p3")
    graph.inputs = {"x": ("float32", (None, 3, None, None))}
    halves = {"kernel_shape": [2, 2], "strides": [2, 2]}
    graph.nodes = [onnx_file.Node("MaxPool", "", [a], [b], halves) for a, b in itertools.pairwise(names)]
    assert shape_that_runs(graph, [4, 2, 6, 6]) == [4, 3, 8, 8]
    assert shape_that_runs(graph, [4, 2, 9, 9]) == [4, 3, 9, 9]
    graph.inputs = {"x": ("float32", (None, 3, 224, 224))}
    assert shape_that_runs(graph, [4, 2, 6, 6]) == [2, 3, 224, 224], "two large images are enough"
    graph.inputs = {"x": ("float32", (None, 3, None, 10))}
    graph.nodes.append(onnx_file.Node("Unheard", "", ["p3"], ["y"], {}))
    assert shape_that_runs(graph, [4, 2, 6, 6]) == [4, 3, 64, 10]


def test_the_terminal_names_the_defect_of_a_file_as_people_run_it(tmp_path: Path, files: Path) -> None:
    done = run_file(tmp_path, files / "fresh-training.onnx")
    said = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "✗ wrong by itself: BN406 folding" in said
    assert "BN406 folding (defect): onnxruntime 1.31.1 computes fresh-training.onnx wrongly with graph" in said
    assert 'load it with onnxruntime.InferenceSession(path, disabled_optimizers=["ConstantSharing"])' in said
    assert "● agrees" not in said


def test_the_terminal_says_what_was_compared_of_a_file_without_nodes(tmp_path: Path, files: Path) -> None:
    done = run_file(tmp_path, files / "no-batch-norm.onnx")
    said = " ".join(done.stdout.split())
    assert done.returncode == 0
    assert "no-batch-norm.onnx holds no BatchNormalization node: if the model had any, they were folded or" in said
    assert "The one compared cell agrees" in said


def run_file(folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    words = ("run", "onnx-file", "--no-report", "--no-probe", "--out", "run", "--set", f"network.file={path}")
    return here(*words, cwd=folder)


def test_a_negative_variance_is_nan_in_both(cells: dict[tuple[str, str], Cell]) -> None:
    for target in ("onnxruntime", "reference"):
        bad = cells[target, "negative-variance"].arrays["features.bn/output_bad"]
        assert bad[0] == bad[1] == 4 * 4 * 4, "one of three channels, as it is and in eval"
        assert bad[2] == 0, "training takes the batch's variance"


def test_shipped_files_are_those_the_generator_writes(files: Path) -> None:
    shipped = sorted((SHIPPED[1] / "models").glob("*.onnx"))
    assert len(shipped) == 9
    for path in shipped:
        assert path.read_bytes() == (files / path.name).read_bytes(), path.name


def test_no_damage_to_a_file_is_more_than_a_sentence(files: Path) -> None:
    """One byte changed, or the end cut off, at 3,000 places: a graph that plays, or one of the two errors that carry a
    reason."""
    good = (files / "opset9-training.onnx").read_bytes()
    path, random = files / "damaged.bin", np.random.default_rng(0)
    outcomes = set()
    for place in random.integers(0, len(good), 3000):
        data = bytearray(good)
        data[place] = random.integers(0, 256)
        path.write_bytes(data[: random.integers(1, len(data) + 1)] if place % 3 == 0 else data)
        try:
            model = onnx_oracle.model_of(onnx_file, str(path))
            model.forward(np.ones((1, 2, 6, 6), np.float32), "as_is")
            outcomes.add(type(model).__name__)
        except (onnx_file.FileError, NotImplementedError) as error:
            assert str(error)
            outcomes.add(type(error).__name__)
    assert outcomes == {"Model", "FileError", "NotImplementedError"}


def test_what_was_not_played_is_not_as_onnx_says() -> None:
    graph = onnx_file.read(str(SHIPPED[-1] / "models" / "opset15.onnx"))
    (norm,) = onnx_file.batch_norms(graph)
    assert (row(graph, norm, (), True).cells[-1], row(graph, norm, (), True).mark) == ("as ONNX says", "agrees")
    assert (row(graph, norm, (), False).cells[-1], row(graph, norm, (), False).mark) == ("not played", "not compared")
    first, *_ = onnx_file.batch_norms(new := onnx_file.read(str(SHIPPED[-1] / "models" / "fresh-training.onnx")))
    assert row(new, first, (), True).cells[-1] == "as ONNX says, statistics at their start"
    said = "the file's input x has the shape [any, 3], the scenario gives [1, 4]: say --set input.shape=[1, 3]"
    told = "the file's input x has the shape [any, 3], and --input gives [1, 4]: say --input 1,3"
    assert in_words_of_check(said) == told


def test_the_terminal_says_what_is_wrong_with_a_file(tmp_path: Path, files: Path) -> None:
    """One sentence in the file's cell, and nobody differs from anybody where nobody could play it."""
    done = run_file(tmp_path, files / "truncated.onnx")
    said = " ".join(done.stdout.split())
    assert "⊘ truncated.onnx ends in the middle of" in said
    assert "there is nothing to compare" in said
    assert done.returncode == 2
    assert "on reference and onnxruntime: truncated.onnx ends in the middle of" in done.stderr
    assert "differ from reference" not in said


def test_a_folder_is_no_file_and_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(onnx_file.FileError, match=r"is a folder; name the \.onnx file"):
        onnx_file.read(str(tmp_path))
