"""Operators of the ONNX oracle, each on numbers whose result its definition gives on sight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bncheck.worker.onnx_side.file import Graph, Node, fitting
from bncheck.worker.onnx_side.oracle import KINDS


def play(kind: str, *given: Any, opset: int = 17, **attributes: Any) -> Any:
    node = Node(kind, kind.lower(), [str(place) for place in range(len(given))], ["y"], attributes)
    return KINDS[kind](node, [None if item is None else np.asarray(item) for item in given], opset)


def test_hard_sigmoid_is_a_line_cut_off_at_0_and_1() -> None:
    np.testing.assert_allclose(play("HardSigmoid", [-9.0, 0.0, 1.0, 9.0]), [0.0, 0.5, 0.7, 1.0])
    np.testing.assert_allclose(play("HardSigmoid", [-1.0, 0.5], alpha=1.0, beta=0.25), [0.0, 0.75])


def test_hard_swish_is_0_below_minus_3_and_the_identity_above_3() -> None:
    np.testing.assert_allclose(play("HardSwish", [-4.0, -3.0, 0.0, 3.0, 6.0]), [0, 0, 0, 3, 6])
    np.testing.assert_allclose(play("HardSwish", [1.5]), [1.5 * 0.75])


def test_softmax_is_along_an_axis_and_was_over_the_rest_before_opset_13() -> None:
    np.testing.assert_allclose(play("Softmax", [[0.0, np.log(3.0)]]), [[0.25, 0.75]])
    x = np.zeros((2, 2, 2))
    np.testing.assert_allclose(play("Softmax", x), np.full(x.shape, 0.5))
    np.testing.assert_allclose(play("Softmax", x, opset=11), np.full(x.shape, 0.25), err_msg="axes 1 and 2 together")
    np.testing.assert_allclose(play("Softmax", [[1000.0, 1000.0]]), [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("starts", "ends", "steps", "expected"),
    [
        (1, 3, 1, [11, 12]),
        (-2, 2**31 - 1, 1, [13, 14]),
        (4, 0, -2, [14, 12]),
        (-1, -(2**31), -1, [14, 13, 12, 11, 10]),
        (9, 1, -1, [14, 13, 12]),
        (3, 3, 1, []),
    ],
)
def test_slice(starts: int, ends: int, steps: int, expected: list[int]) -> None:
    x = np.array([10, 11, 12, 13, 14])
    assert play("Slice", x, [starts], [ends], [0], [steps]).tolist() == expected
    if steps == 1:
        assert play("Slice", x, opset=9, starts=[starts], ends=[ends]).tolist() == expected


def test_conv_transpose_lays_a_kernel_down_for_every_value() -> None:
    x, kernel = np.array([[[1.0, 2.0]]]), np.array([[[1.0, 10.0, 100.0]]])
    assert play("ConvTranspose", x, kernel).tolist() == [[[1, 12, 120, 200]]]
    assert play("ConvTranspose", x, kernel, strides=[2]).tolist() == [[[1, 10, 102, 20, 200]]]
    assert play("ConvTranspose", x, kernel, strides=[2], pads=[1, 0]).tolist() == [[[10, 102, 20, 200]]]
    assert play("ConvTranspose", x, kernel, dilations=[2]).tolist() == [[[1, 2, 10, 20, 100, 200]]]
    assert play("ConvTranspose", x, kernel, strides=[3], output_padding=[1]).tolist() == [[[1, 10, 100, 2, 20, 200, 0]]]
    two, wide = np.array([[[1.0], [2.0]]]), np.array([[[1.0]], [[10.0]]])
    assert play("ConvTranspose", two, wide, [0.5]).tolist() == [[[21.5]]]
    assert play("ConvTranspose", two, wide, group=2).tolist() == [[[1], [20]]]


def test_resize_repeats_the_nearest_value() -> None:
    x = np.array([[[1.0, 2.0]]])
    assert play("Resize", x, None, [1.0, 1.0, 3.0]).tolist() == [[[1, 1, 1, 2, 2, 2]]]
    assert play("Resize", x, None, None, [1, 1, 4]).tolist() == [[[1, 1, 2, 2]]]
    assert play("Upsample", x, [1.0, 1.0, 2.0], opset=9).tolist() == [[[1, 1, 2, 2]]]
    assert play("Resize", x, None, [1.0, 1.0, 1.5]).tolist() == [[[1, 1, 2]]], "places −1/6, 1/2 and 7/6 of the input"
    assert play("Resize", x, None, [1.0, 1.0, 2.0], mode="linear").tolist() == [[[1, 1.25, 1.75, 2]]]
    with pytest.raises(NotImplementedError, match="no Resize of mode cubic"):
        play("Resize", x, None, [1.0, 1.0, 1.5], mode="cubic")


def test_leaky_relu_and_tanh() -> None:
    np.testing.assert_allclose(play("LeakyRelu", [-2.0, 0.0, 3.0], alpha=0.5), [-1.0, 0.0, 3.0])
    np.testing.assert_allclose(play("Tanh", [0.0, np.arctanh(0.5)]), [0.0, 0.5])


def test_channels_of_an_open_input_are_those_of_the_first_layer() -> None:
    """Behind what changes no shape; sizes that nothing says are the usual ones."""
    graph = Graph("model.onnx")
    graph.inputs = {"x": ("float32", (None, None, None, 9))}
    graph.weights = {"mean": np.zeros(3), "w": np.zeros((8, 3, 1, 1))}
    graph.nodes = [Node("Sub", "", ["x", "mean"], ["d"], {}), Node("Conv", "", ["d", "w"], ["y"], {"group": 2})]
    assert fitting(graph, [4, 2, 6, 6]) == [4, 6, 6, 9]
    graph.inputs = {"x": ("float32", None)}
    assert fitting(graph, [4, 2]) == [2, 6, 8, 8]
    graph.nodes = [Node("Gemm", "", ["x", "fc"], ["y"], {"transB": 1})]
    graph.weights = {"fc": np.zeros((10, 5))}
    assert fitting(graph, [4, 2, 6, 6]) == [2, 5]


def test_depthwise_convolution_is_one_filter_per_channel() -> None:
    x = np.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    one, two = np.array([[[1.0, 10.0]], [[1.0, -1.0]]]), np.array([[[1.0]], [[2.0]], [[3.0]], [[4.0]]])
    assert play("Conv", x, one, [0.5, 0.0], group=2).tolist() == [[[21.5, 32.5], [-1, -1]]]
    assert play("Conv", x, two, group=2)[0, :, 0].tolist() == [1, 2, 12, 16], "two filters on each channel"
