"""Ways to run a network in PyTorch, and ONNX export and run, on real torch and onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from beside_torch import answers
from torch_cells import Cell, cases_of, play_cells, python_of, read_cell, renamed

from bncheck.run_folder.results import read_results
from bncheck.scenario import Case, Event, Network


def network_case(case: Case) -> Case:
    """The shipped layer's case with PyTorch's own BatchNorm."""
    return renamed(case, "base", custom=None)


def played(tmp_path_factory: pytest.TempPathFactory, variant: str) -> Cell:
    (case,) = cases_of("custom-layer").values()
    return play_cells(tmp_path_factory.mktemp("run"), [network_case(case)], variant)["base"]


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    return played(tmp_path_factory, "")


@pytest.mark.parametrize("variant", ["jit", "channels_last", "functional", "builtin"])
def test_a_variant_computes_what_eager_computes(
    tmp_path_factory: pytest.TempPathFactory, eager: Cell, variant: str
) -> None:
    cell = played(tmp_path_factory, variant)
    assert cell.result.outcome == "ok", cell.errors
    assert set(cell.arrays) == set(eager.arrays)
    for name in ("bn/running_mean", "bn/running_var", "bn/counter", "bn/used_mean", "output/0", "grad_input/1"):
        np.testing.assert_allclose(cell.arrays[name], eager.arrays[name], atol=1e-4)


@pytest.mark.parametrize("variant", ["export", "trace"])
def test_a_program_of_the_network_moves_the_models_own_statistics(
    tmp_path_factory: pytest.TempPathFactory, eager: Cell, variant: str
) -> None:
    """To make it is to run the network once: what that moves is put back."""
    cell = played(tmp_path_factory, variant)
    assert cell.result.outcome == "ok", cell.errors
    np.testing.assert_allclose(cell.arrays["bn/running_mean"], eager.arrays["bn/running_mean"], atol=1e-5)
    np.testing.assert_allclose(cell.arrays["output/12"], eager.arrays["output/12"], atol=1e-4)
    assert (cell.arrays["bn/n"] == -1).all(), "the inside of a program cannot be seen"


@pytest.fixture(scope="module")
def recomputed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    """One worker: what recomputes imports torch._dynamo, which takes as long as torch itself."""
    (plain,) = cases_of("custom-layer").values()
    (refused,) = cases_of("one-value-per-channel").values()
    leaky = cases_of("custom-graph")["leaky, FB"]
    cases = [network_case(plain), renamed(refused, "refused"), renamed(leaky, "leaky")]
    return play_cells(tmp_path_factory.mktemp("run"), cases, "checkpoint")


def test_recomputation_counts_every_batch_twice(recomputed: dict[str, Cell], eager: Cell) -> None:
    cell = recomputed["base"]
    assert eager.arrays["bn/counter"].tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6]
    assert cell.arrays["bn/counter"].tolist() == [*range(13), 12]
    # Two updates of weight 0.3 with the same batch are one of weight 1 - 0.7².
    first = eager.arrays["bn/running_mean"][1] / 0.3
    np.testing.assert_allclose(cell.arrays["bn/running_mean"][2], first * (1 - 0.7**2), rtol=1e-4)


def test_a_forward_that_is_refused_under_recomputation_counts_once(tmp_path: Path, recomputed: dict[str, Cell]) -> None:
    """One value per channel: the layer counts the batch, then refuses it. A second try would count it again."""
    plain = play_cells(tmp_path, list(cases_of("one-value-per-channel").values()))["base"]
    again = recomputed["refused"]
    assert again.arrays["bn/counter"].tolist() == plain.arrays["bn/counter"].tolist() == [0, 1, 1, 1]


def test_looking_at_what_a_graph_keeps_plays_no_forward(recomputed: dict[str, Cell]) -> None:
    """A leaky layer under recomputation: a forward counts once, its backward once more, and looking not at all."""
    cell = recomputed["leaky"]
    assert cell.arrays["bn/counter"][:3].tolist() == [0, 1, 2]
    assert (cell.arrays["bn/graph_nodes"][1:3] > 0).all()


def test_backward_twice_through_the_same_forward(tmp_path_factory: pytest.TempPathFactory) -> None:
    (case,) = cases_of("custom-layer", program__events=["train_forward", "backward", "backward"]).values()
    cell = play_cells(tmp_path_factory.mktemp("run"), [network_case(case)])["base"]
    assert cell.result.outcome == "ok", cell.errors
    np.testing.assert_array_equal(cell.arrays["grad_input/1"], cell.arrays["grad_input/2"])


# --- ONNX

EXPORTS = ("export-legacy", "export-dynamo", "export-eval-net-train-bn")


@pytest.fixture(scope="module")
def exports(export_run: Path) -> dict[str, Cell]:
    python_of("onnx")
    played = [cell for cell in read_results(export_run).cells if cell.target == "torch[onnx]"]
    names = {f"{cell.scenario}--{cell.case}": cell.slug for cell in played if cell.scenario in EXPORTS}
    return {name: read_cell(export_run / "cells" / slug / name) for name, slug in names.items()}


def noted(cell: Cell, event: str, key: str) -> dict[str, object]:
    assert cell.result.outcome == "ok", cell.errors
    found: dict[str, object] = cell.result.notes[event][key]
    return found


def test_the_legacy_exporter_flips_the_frozen_layer(exports: dict[str, Cell]) -> None:
    cell = exports["export-legacy--default"]
    assert cell.arrays["bn/training"].tolist() == [1, 1, 0, 0, 1, 1, 1]
    assert noted(cell, "3", "export")["flipped"] == [["bn", False, True]]
    change = np.abs(cell.arrays["output/5"] - cell.arrays["output/2"]).max()
    assert change > 0.05, "the next forward normalises with the batch"
    assert noted(cell, "3", "export")["output_change"] == pytest.approx(change, rel=1e-4)
    np.testing.assert_array_equal(cell.arrays["bn/running_mean"][5], [0, 0])
    assert (cell.arrays["bn/running_mean"][6] != 0).all(), "and moves the running statistics"


def test_preserve_keeps_the_mode_and_the_batch_norm_node(exports: dict[str, Cell]) -> None:
    cell = exports["export-legacy--preserve"]
    assert noted(cell, "3", "export")["flipped"] == []
    graph = noted(cell, "3", "export")["graph"]
    assert isinstance(graph, dict)
    (node,) = graph["batch_norms"]
    assert (node["training"], node["outputs"]) == (False, 1)
    assert node["momentum"] == pytest.approx(0.9)


def test_training_exports_move_the_statistics_and_say_so_in_the_file(exports: dict[str, Cell]) -> None:
    cell = exports["export-legacy--training"]
    norms, graph = noted(cell, "3", "export")["norms"], noted(cell, "3", "export")["graph"]
    assert isinstance(norms, dict)
    assert isinstance(graph, dict)
    assert norms["bn"]["num_batches_tracked_moved"] == 1
    (node,) = graph["batch_norms"]
    assert (node["training"], node["outputs"]) == (True, 3)


def test_the_dynamo_exporter_leaves_the_model_alone(exports: dict[str, Cell]) -> None:
    cell = exports["export-dynamo--frozen-layer"]
    assert noted(cell, "3", "export")["flipped"] == []
    np.testing.assert_array_equal(cell.arrays["output/2"], cell.arrays["output/5"])
    np.testing.assert_allclose(cell.arrays["output/4"], cell.arrays["output/5"], atol=1e-5)


def test_a_network_in_training_mode_becomes_a_file_of_its_eval_model(exports: dict[str, Cell]) -> None:
    run = noted(exports["export-dynamo--training-mode"], "3", "run_exported")
    assert float(str(run["difference_eval"])) < 1e-5
    assert float(str(run["difference_as_exported"])) > 0.05


def test_the_legacy_exporter_leaks_the_other_way_too(exports: dict[str, Cell]) -> None:
    assert noted(exports["export-eval-net-train-bn--legacy"], "3", "export")["flipped"] == [["bn", True, False]]


DROPPING = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten())
"""


def test_modes_of_batch_norm_and_dropout_are_read_from_the_file(tmp_path: Path) -> None:
    """A network in training mode: the default export is an eval file, TRAINING one that trains and drops."""
    (tmp_path / "net.py").write_text(DROPPING, encoding="utf-8")
    cases = []
    for case in cases_of("export-legacy").values():
        network = Network((), model=f"{tmp_path / 'net.py'}:build")
        events = (Event("set_mode", arguments={"training": True}), *case.events[3:5])
        cases.append(replace(case, network=network, events=events, steps=()))
    (tmp_path / "run").mkdir()
    cells = play_cells(tmp_path / "run", cases, "onnx")
    for name, training in (("default", False), ("training", True), ("preserve", True)):
        graph = noted(cells[name], "1", "export")["graph"]
        assert isinstance(graph, dict)
        assert [node["training"] for node in graph["dropouts"]] == ([True] if training else []), name
        assert [node["training"] for node in graph["batch_norms"]] == ([True] if training else []), name


def test_without_onnx_an_export_is_unsupported_and_says_which_target_has_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    case = next(iter(cases_of("export-legacy").values()))
    cell = play_cells(tmp_path_factory.mktemp("run"), [case])[case.name]
    if cell.result.outcome == "ok":
        pytest.skip("this Python has torch and onnx: nothing is missing")
    assert cell.result.outcome == "unsupported"
    assert "torch[onnx]" in cell.result.error
    assert "no export before it went through" in cell.errors[1]


SOWN = """
import torch
from bncheck.worker.beside import part_of

sowing = part_of("torch")("sowing")
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
inputs = [torch.randn(6, 3).requires_grad_() for _ in range(2)]
dys = [torch.randn(6, 3) for _ in range(2)]
dys[1][0, 0] = float("inf")

def gradients(backward):
    for each in (*inputs, *net.parameters()):
        each.grad = None
    outs = [net(x) for x in inputs]
    backward(outs, True)
    backward(outs, False)  # once more through the same forwards
    return [each.grad for each in (*inputs, *net.parameters())]

ours = gradients(lambda outs, keep: sowing.backward(torch, outs, dys, keep))
answers["imported SymPy"] = "sympy" in sys.modules
usual = gradients(lambda outs, keep: torch.autograd.backward(outs, dys, retain_graph=keep))
answers["same"] = all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(ours, usual))
try:
    sowing.backward(torch, [net(inputs[0])], [torch.ones(1, 3)], True)
except RuntimeError as error:
    answers["refusal"] = str(error)[:17]
"""


def test_gradients_are_sown_without_sympy_and_arrive_as_they_are(tmp_path: Path) -> None:
    """Two forwards, two backwards, an infinite gradient; one of another shape is refused in torch's words."""
    assert answers(SOWN, tmp_path) == {"imported SymPy": False, "same": True, "refusal": "Mismatch in shape"}
