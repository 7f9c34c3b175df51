"""Layers of one's own in PyTorch: what they leave in a trace, and what is said of files that cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch_cells import Cell, cases_of, play_cells, renamed

from bncheck.scenario_files.inputs import make_inputs

LAYERS = Path(__file__).parent.parent / "scenarios" / "layers"
HEADER = "import torch\nfrom torch import nn\n"
LAYER = """
class Own(nn.Module):
    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=True):
        super().__init__()
    def forward(self, x):
        {body}
"""
# File name: (source, words of the sentence that it is answered with).
BAD_FILES = {
    "missing_import": ("import no_such_module_here\n", ["does not import", "no_such_module_here", "(line 1)"]),
    "syntax": ("class Own(:\n", ["does not import", "SyntaxError", "(line 1)"]),
    "exits": ("import sys\nsys.exit(3)\n", ["does not import", "SystemExit", "(line 2)"]),
    "no_class": (f"{HEADER}class Owm(nn.Module): pass\n", ["has no class Own", "it defines Owm", "did you mean Owm?"]),
    "no_module": ("class Own: pass\n", ["not a subclass of torch.nn.Module"]),
    "signature": (
        f"{HEADER}class Own(nn.Module):\n    def __init__(self, size, groups):\n        super().__init__()\n",
        ["Own(size, groups) needs groups, which bncheck does not know"],
    ),
    "constructor": (
        f"{HEADER}class Own(nn.Module):\n    def __init__(self, *a, **k):\n        raise OSError('no weights')\n",
        ["raises OSError: no weights", "(line 5)"],
    ),
    "shape": (HEADER + LAYER.format(body="return x[:, :1]"), ["turns the shape (2, 4, 2, 2) into (2, 1, 2, 2)"]),
    "dtype": (HEADER + LAYER.format(body="return x.double()"), ["turns torch.float32 into torch.float64"]),
    "nothing": (HEADER + LAYER.format(body="return None"), ["returns a NoneType", "one tensor"]),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    (case,) = cases_of("custom-layer").values()
    folder = tmp_path_factory.mktemp("files")
    for name, (source, _) in BAD_FILES.items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    cases = [renamed(case, name, custom=f"{folder / name}.py:Own") for name in BAD_FILES]
    prints = HEADER + "print('hello from the layer')\n" + LAYER.format(body="print('forward'); return x * 1")
    (folder / "prints.py").write_text(prints, encoding="utf-8")
    cases.append(renamed(case, "prints", custom=f"{folder / 'prints.py'}:Own"))
    cases.append(renamed(case, "gone", custom=f"{folder / 'gone.py'}:Own"))
    return play_cells(tmp_path_factory.mktemp("run"), cases)


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_cell_with_a_sentence(bad: dict[str, Cell], name: str) -> None:
    cell = bad[name]
    assert cell.result.outcome == "raised"
    assert cell.result.error_type == "CustomLayerError"
    for words in BAD_FILES[name][1]:
        assert words in cell.result.error


def test_a_file_that_is_not_there(bad: dict[str, Cell]) -> None:
    assert bad["gone"].result.outcome == "raised"
    assert "there is no file" in bad["gone"].result.error


def test_what_a_layer_prints_is_kept_beside_the_data(bad: dict[str, Cell]) -> None:
    assert bad["prints"].result.outcome == "ok", bad["prints"].errors
    assert "hello from the layer" in bad["prints"].printed
    assert bad["prints"].printed.count("forward") >= 7


def test_a_layer_that_hangs_is_a_timeout_and_nothing_else_is_lost(tmp_path: Path) -> None:
    (case,) = cases_of("custom-layer").values()
    hangs = HEADER + "import time\n" + LAYER.format(body="\n        while True: time.sleep(1)")
    (tmp_path / "hangs.py").write_text(hangs, encoding="utf-8")
    (tmp_path / "run").mkdir()
    cases = [renamed(case, "hangs", custom=f"{tmp_path / 'hangs.py'}:Own"), renamed(case, "after")]
    cells = play_cells(tmp_path / "run", cases, seconds=5)
    assert [cells[name].result.outcome for name in ("hangs", "after")] == ["timeout", "ok"]


# --- the shipped layers


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    (layer,) = cases_of("custom-layer").values()
    graph = {case.name: renamed(case, f"graph-{case.name}") for case in cases_of("custom-graph").values()}
    running = [renamed(case, f"running-{case.name}") for case in cases_of("running-batchnorm").values()]
    return play_cells(tmp_path_factory.mktemp("run"), [layer, *graph.values(), *running])


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    return play_cells(tmp_path_factory.mktemp("run"), list(cases_of("custom-layer").values()), "builtin")


def test_a_good_layer_agrees_with_the_built_in_one(own: dict[str, Cell], builtin: dict[str, Cell]) -> None:
    ours, theirs = own["base"].arrays, builtin["base"].arrays
    for name, bound in (("bn/running_mean", 1e-6), ("bn/running_var", 1e-5), ("output/0", 1e-5), ("output/12", 1e-5)):
        np.testing.assert_allclose(ours[name], theirs[name], atol=bound, rtol=1e-5)
    assert not np.array_equal(ours["output/0"], theirs["output/0"]), "two implementations round differently"
    np.testing.assert_array_equal(ours["bn/counter"], theirs["bn/counter"])
    assert "bn/graph_nodes" not in theirs


def test_facts_of_a_good_layer(own: dict[str, Cell]) -> None:
    facts = own["base"].result.notes["cell"]["custom"]["bn"]
    assert facts["state_dict"] == {"missing": [], "additional": []}
    assert facts["deepcopy"] == "ok"
    assert {key for key, answer in facts["moves"].items() if answer != "ok"} <= {".cuda()"}
    assert facts["with_graph"] == {}
    assert facts["kept"]["running_mean"] == "(4,) float32"
    assert "time" not in facts


def test_a_leak_grows_by_the_same_number_of_nodes_each_step(own: dict[str, Cell]) -> None:
    assert own["graph-good--fb"].arrays["bn/graph_nodes"].max() == 0
    nodes = own["graph-leaky--fb"].arrays["bn/graph_nodes"]
    added = np.diff(nodes[::2])
    assert added[0] == added[-1] > 0
    assert len(set(added)) == 1
    assert np.diff(own["graph-leaky--fb"].arrays["bn/graph_bytes"][::2]).min() > 0
    facts = own["graph-leaky--fb"].result.notes["cell"]["custom"]["bn"]
    # What torch makes of 0.9 * mean + 0.1 * x.mean(): 7 nodes with the convolution behind x, then 6 with each forward.
    assert facts["nodes_of"]["running_mean"][:6] == [0, 7, 7, 13, 13, 19]
    assert nodes[:6].tolist() == [0, 16, 16, 32, 32, 48], "behind both buffers, what they share once"
    assert set(facts["with_graph"]) == {"running_mean", "running_var"}
    assert "deepcopy" in facts["deepcopy"]


def test_an_in_place_change_shows_with_two_forwards_before_one_backward(own: dict[str, Cell]) -> None:
    assert own["graph-in-place--fb"].result.outcome == "ok"
    assert own["graph-in-place--ffb"].result.outcome == "raised"
    assert "modified by an inplace operation" in own["graph-in-place--ffb"].result.error


def test_running_batch_norm_fails_in_the_reported_ways(own: dict[str, Cell]) -> None:
    assert own["running-careful"].result.outcome == "ok"
    assert own["running-batch-size-1"].result.error_type == "ZeroDivisionError"
    undetached = own["running-not-detached"]
    assert undetached.result.event == 3, "the second step's backward"
    assert "backward through the graph a second time" in undetached.result.error
    assert own["running-in-place-fb"].result.outcome == "ok"
    assert "modified by an inplace operation" in own["running-in-place-ffb"].result.error
    first = own["running-eval-first"].arrays
    assert np.isnan(first["output/0"]).all()
    assert np.isfinite(first["output/1"]).all()
    assert np.isnan(own["running-cancels-at-mean-1000"].arrays["output/0"]).any()
    skipping = own["running-every-second-step"].arrays["bn/running_mean"]
    moved = (np.diff(skipping, axis=0) != 0).any(axis=1)[::2]
    assert moved.tolist() == [True, False, True, False]


def test_own_layers_are_timed_when_asked(tmp_path: Path) -> None:
    cell = play_cells(tmp_path, list(cases_of("custom-layer").values()), "timed")["base"]
    found = cell.result.notes["cell"]["custom"]["bn"]["time"]
    assert found["ratio"] == pytest.approx(found["own_seconds"] / found["builtin_seconds"])
    assert 0.05 < found["ratio"] < 500
    assert found["repeats"] >= 5


# --- complex numbers


def whitened(x: np.ndarray, eps: float) -> np.ndarray:
    """The oracle in float64: each pair of channels times the inverse root of its covariance, by eigenvalues."""
    z = np.moveaxis(x.astype(np.float64), 1, 0).reshape(2, x.shape[1] // 2, -1)
    z = z - z.mean(axis=2, keepdims=True)
    out = np.empty_like(z)
    for channel in range(z.shape[1]):
        pair = z[:, channel]
        values, vectors = np.linalg.eigh(pair @ pair.T / pair.shape[1] + eps * np.eye(2))
        out[:, channel] = vectors @ np.diag(values**-0.5) @ vectors.T @ pair
    return np.moveaxis(out.reshape(x.shape[1], x.shape[0], *x.shape[2:]), 0, 1)


@pytest.fixture(scope="module")
def complexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    cases = {case.name: case for case in cases_of("complex-batchnorm").values()}
    plain = cases["leaky-plain-leaf"]
    alone = [
        replace(plain, name=f"alone-{name}", events=plain.events[:1], steps=(), network=replace(
            plain.network, custom=cases[name].network.custom, parts=cases[name].network.parts))
        for name in ("no-grad", "two-tensors")
    ]  # fmt: skip
    return play_cells(tmp_path_factory.mktemp("run"), [*cases.values(), *alone]) | {"case": alone[0]}  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["alone-no-grad", "alone-two-tensors"])
def test_complex_batch_norm_whitens(complexes: dict[str, Cell], name: str) -> None:
    """One complex tensor, or two real ones: the same numbers, those of an oracle that goes by eigenvalues."""
    x = make_inputs(complexes["case"])["x/main"][0]  # type: ignore[arg-type]
    np.testing.assert_allclose(complexes[name].arrays["output/0"], whitened(x, 1e-5), atol=1e-5)


def test_state_of_a_complex_layer(complexes: dict[str, Cell]) -> None:
    """Means part by part; variances are the diagonal of the covariance, whatever order the layer keeps it in."""
    one, two = complexes["no-grad"].arrays, complexes["two-tensors"].arrays
    for name, width in (("running_mean", 4), ("running_var", 4), ("running_covar", 6)):
        assert one[f"bn/{name}"].shape == two[f"bn/{name}"].shape == (122, width)
        np.testing.assert_allclose(one[f"bn/{name}"], two[f"bn/{name}"], atol=2e-6)
    assert one["bn/running_covar"][0].tolist() == [1, 1, 0, 0, 1, 1]
    np.testing.assert_array_equal(one["bn/running_covar"][:, [0, 1, 4, 5]], one["bn/running_var"])
    facts = complexes["no-grad"].result.notes["cell"]["custom"]["bn"]
    assert facts["state_dict"] == {"missing": ["running_var"], "additional": ["running_covar"]}
    assert facts["kept"]["running_covar"] == "(3, 2) float32"
    assert facts["kept"]["running_mean"] == "(2,) complex64"


def test_the_reported_leak_grows_by_seven_and_forty_two_nodes(complexes: dict[str, Cell]) -> None:
    """Behind a conv 421 and 2,520 nodes after 60 steps, on a plain leaf none, with no_grad or detach none."""
    nodes = complexes["leaky"].result.notes["cell"]["custom"]["bn"]["nodes_of"]
    assert set(nodes) == {"running_mean", "running_covar"}
    assert np.diff(nodes["running_mean"][1:-1:2]).tolist() == [7] * 59
    assert np.diff(nodes["running_covar"][1:-1:2]).tolist() == [42] * 59
    assert (nodes["running_mean"][-1], nodes["running_covar"][-1]) == (421, 2520)
    for name in ("no-grad", "detached", "leaky-plain-leaf", "two-tensors"):
        assert complexes[name].arrays["bn/graph_nodes"].max() == 0, name


def test_the_simple_leak_has_301_nodes_after_50_steps(tmp_path: Path) -> None:
    case = next(each for each in cases_of("custom-graph", program__repeat=50).values() if each.name == "leaky--fb")
    nodes = play_cells(tmp_path, [case])["leaky--fb"].result.notes["cell"]["custom"]["bn"]["nodes_of"]
    assert nodes["running_mean"][-1] == 301


@pytest.mark.parametrize(
    "name, line",
    [
        ("running-batch-size-1", "running_bn.py, line 85: return 1 - (1 - self.momentum) / (x.shape[0] - 1) ** 0.5"),
        ("running-not-detached", "running_bn.py, line 5"),
        ("running-in-place-ffb", "running_bn.py, line 33: return (self.squares / self.count"),
        ("graph-in-place--ffb", "inplace_bn.py, line 17: return mean, ((x - mean[:, None, None]) ** 2)"),
    ],
)
def test_an_error_names_the_line_of_the_users_file(own: dict[str, Cell], name: str, line: str) -> None:
    """Also one in a backward: the line of the forward that made the node."""
    assert f"[{line}" in own[name].result.error


WRAPPER = """
class Wrapper(nn.Module):
    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__()
        self.inner = nn.BatchNorm2d(channels, eps=eps, momentum=1 - momentum)
    def forward(self, x):
        return self.inner(x)
"""


def test_a_wrapper_shows_the_state_of_the_layer_inside(tmp_path: Path) -> None:
    """Its running mean after one step is 0.7 of the batch's where the built-in one has 0.3 of it."""
    (case,) = cases_of("custom-layer").values()
    (tmp_path / "wrapper.py").write_text(HEADER + WRAPPER, encoding="utf-8")
    cell = play_cells(tmp_path, [renamed(case, "wrapper", custom=f"{tmp_path / 'wrapper.py'}:Wrapper")])["wrapper"]
    held, given = cell.arrays["bn/running_mean"], cell.arrays["bn/input_mean"]
    assert np.allclose(held[1], 0.7 * given[0], rtol=1e-5, atol=1e-6)
