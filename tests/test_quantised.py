"""Quantised weights and what they were rounded from: literal ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bncheck.checkpoints.onnx_graph import dequantised, floats
from bncheck.checkpoints.recognise import Checkpoint
from bncheck.checkpoints.tensor import in_memory
from bncheck.diagnosis.held.measured import Measured
from bncheck.diagnosis.held.quantised import Origin, Quantised, Rounded, hint, origin_of, readings, variants
from bncheck.diagnosis.held.reading import Sides
from bncheck.life import Held, Holding
from bncheck.subjects.folded import Weights
from bncheck.subjects.quantised import candidates, rounded_weights
from bncheck.subjects.two_files import side_by_side
from bncheck.trace import Array
from bncheck.worker.onnx_side.file import Node

SIDES = Sides(a="A", b="B")
# gamma/sqrt(var + eps) is 2 and 0.5, (0 − mean)·gain + beta is −1 and 3.
LAYER = Held(
    layer="bn",
    running_mean=np.array([1.0, 0.0]),
    running_var=np.array([0.25, 4.0]),
    gamma=np.array([1.0, 1.0]),
    beta=np.array([1.0, 3.0]),
    eps=0.0,
)
WEIGHT = np.array([[0.5, 1.0], [2.0, -1.0]])
FOLDED = np.array([[1.0, 2.0], [1.0, -0.5]])


def rounded(values: Array, step: float = 0.25) -> Rounded:
    return Rounded(name="w", values=np.round(values / step) * step, step=np.array(step))


def origin(values: Array, bias: Array | None = None, step: float = 0.25) -> tuple[str, float]:
    beside = None if bias is None else Rounded(name="b", values=bias, step=np.array(1e-6))
    found, off = origin_of(rounded(values, step), beside, variants(WEIGHT, None, [LAYER]))
    return (found.word if found else ""), off


def test_a_weight_is_itself_or_has_the_layer_behind_it_folded_in() -> None:
    assert origin(WEIGHT + 0.1)[0] == "same"
    assert origin(FOLDED + 0.1, np.array([-1.0, 3.0]))[0] == "folded"
    assert origin(FOLDED, np.array([-1.0, 3.5]))[0] == ""  # another bias than the fold's
    assert origin(FOLDED)[0] == ""  # a fold needs a place for its mean
    assert origin(WEIGHT + 1.0) == ("", pytest.approx(4.0, rel=1e-5))


@pytest.mark.parametrize(("away", "word"), [(0.1, "same"), (0.15, "")])
def test_rounding_is_off_by_half_a_step_and_no_more(away: float, word: str) -> None:
    found, off = origin_of(rounded(WEIGHT), None, variants(WEIGHT + away, None, []))  # 0.4 and 0.6 of a step
    assert (found.word if found else "", off) == (word, pytest.approx(away / 0.25, rel=1e-4))


def test_whole_numbers_stand_for_floats_with_one_scale_or_one_per_channel() -> None:
    whole = np.array([[2, 4], [6, 8]], np.int8)
    one = dequantised(Node("DequantizeLinear", "", [], [], {}), [whole, np.float32(0.5), np.int8(2)])
    assert one is not None and one[0].tolist() == [[0, 1], [2, 3]]
    each = dequantised(Node("DequantizeLinear", "", [], [], {"axis": 0}), [whole, np.float32([1, 0.5])])
    assert each is not None and each[0].tolist() == [[2, 4], [3, 4]]
    for scale in (np.float32([[1, 1], [1, 1]]), np.float32([1, 1, 1]), np.float32(0), np.float32([1, np.nan])):
        assert dequantised(Node("DequantizeLinear", "", [], [], {"axis": 0}), [whole, scale]) is None


def beside(weight: Array) -> Checkpoint:
    """A model of one weight and the layer."""
    holding = Holding(name="A", framework="torch", format="model", layers=(LAYER,), others={"w": weight.shape})
    return Checkpoint(holding=holding, tensors={"w": in_memory(weight)})


def word_of(values: Array, bias: Array, model: Checkpoint) -> str:
    found, _ = origin_of(rounded(values), rounded(bias), candidates(rounded(values), model, Weights(model)))
    return found.word if found else ""


def test_a_transposed_convolution_has_its_output_channels_second() -> None:
    weight = np.array([[[[1.0]], [[2.0]]], [[[3.0]], [[4.0]]]], np.float32)  # (I, O, 1, 1); gains are 2 and 0.5
    model = beside(weight)
    assert word_of(np.array([[[[2.0]], [[1.0]]], [[[6.0]], [[2.0]]]]), np.array([-1.0, 3.0]), model) == "folded"
    assert word_of(np.array([[[[2.0]], [[1.0]]], [[[6.0]], [[4.0]]]]), np.array([-1.0, 3.0]), model) == ""


def test_gamma_and_beta_are_rounded_too() -> None:
    """onnxruntime rounds those of a BatchNormalization that it leaves unfolded."""
    model = beside(WEIGHT)
    assert word_of(np.array([1.0, 1.1]), np.array([1.0, 3.0]), model) == "same"
    assert word_of(np.array([1.0, 1.1]), np.array([1.0, 4.0]), model) == ""
    nodes = [
        Node("DequantizeLinear", "", [f"{word}_q", f"{word}_s"], [word], {}) for word in ("bn.weight", "bn.bias")
    ] + [Node("BatchNormalization", "", ["x", "bn.weight", "bn.bias", "m", "v"], ["y"], {})]
    weights = {
        "bn.weight_q": np.array([2, 4], np.int8), "bn.weight_s": np.float32([0.5]),
        "bn.bias_q": np.array([1, 3], np.int8), "bn.bias_s": np.float32([0.5]),
    }  # fmt: skip
    graph = SimpleNamespace(nodes=nodes, weights=weights)
    assert {name: value.tolist() for name, value in floats(graph).items()} == {
        "bn.weight": [1, 2],
        "bn.bias": [0.5, 1.5],
    }
    assert next((each.name, each.bias) for each in rounded_weights(graph)) == ("bn.weight", "bn.bias")


def test_a_layer_that_is_folded_into_a_rounded_weight_is_not_lacking() -> None:
    model, bare = beside(WEIGHT), Holding(name="B", framework="onnx", format="ONNX", layers=(), others={"q": (2, 2)})
    file = Checkpoint(holding=bare, tensors={"q": in_memory(np.array([[2, 4], [2, -1]], np.int8))})
    causes = [
        [item.cause for item in side_by_side(model, file, ("A", "B"), True, rounded)[1]] for rounded in ((), ("bn",))
    ]
    assert causes == [["state-mismatch"], []]


FOUND = Quantised(weights=2, origins={"w": Origin(word="folded", weight=FOLDED, bias=None, layer="bn")})


def test_quantisation_is_the_cause_only_where_the_file_without_it_gives_the_same() -> None:
    (reading,) = readings(SIDES, FOUND, Measured(0.1, 1e-6), Measured(0.02, 1e-6), Measured(1e-7, 1e-6)) or []
    assert (reading.cause, reading.kind) == ("reduced-precision", "convention")
    assert "B is A quantised, with 1 BatchNorm layer folded, and nothing else" in reading.title
    assert "differ by 10 % of the largest, by 2 % where its weights alone are rounded" in reading.title
    assert readings(SIDES, FOUND, Measured(0.1, 1e-6), Measured(0.02, 1e-6), Measured(1e-3, 1e-6)) is None
    assert readings(SIDES, FOUND, Measured(1e-7, 1e-6), Measured(1e-7, 1e-6), Measured(1e-7, 1e-6)) is None


def test_what_is_known_where_quantisation_is_not_all() -> None:
    assert "with the weights of A and without rounding it differs all the same" in hint(SIDES, FOUND)
    strange = Quantised(weights=3, strange={"conv": 29.7})
    assert "1 of its 3 rounded weights is no rounding of a weight of A" in hint(SIDES, strange)
    assert "conv is off by 29.7 of its steps" in hint(SIDES, strange)
    assert "conv is far off" in hint(SIDES, Quantised(weights=3, strange={"conv": float("inf")}))
    assert "what that costs is not measured: why." in hint(SIDES, Quantised(weights=3, lacking="why"))
