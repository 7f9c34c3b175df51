"""What goes in and out of each layer: shapes and channel counts, worked out from the vocabulary alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from bncheck.scenario import Case, Layer, layer_type_of

Shape = tuple[int, ...]


class ShapeError(Exception):
    """A layer that cannot take what reaches it: position of the layer, its key, a sentence."""

    def __init__(self, layer: int, key: str, message: str) -> None:
        super().__init__(message)
        self.layer, self.key, self.message = layer, key, message


def with_channels(layers: Sequence[Layer], shape: Shape) -> tuple[tuple[Layer, ...], Shape | None]:
    """Layers with their input channels filled in, and the network's output shape (None where nobody knows).

    Raises ShapeError at the first layer that cannot take what reaches it. After a custom layer nothing is
    known, so channels stay as they were written.
    """
    filled: list[Layer] = []
    here: Shape | None = shape
    for index, written in enumerate(layers):
        layer, here = (written, None) if here is None else _through(index, written, here)
        filled.append(layer)
    return tuple(filled), here


def shapes_between(layers: Sequence[Layer], shape: Shape) -> Iterator[Shape]:
    """What each layer puts out, as far as anybody knows. Raises ShapeError as ``with_channels``."""
    here: Shape | None = shape
    for index, layer in enumerate(layers):
        _, here = (layer, None) if here is None else _through(index, layer, here)
        if here is None:
            return
        yield here


def parameter_count(layer: Layer) -> int:
    """Numbers that a layer with its channels filled in holds."""
    channels = layer.channels or 0
    if layer.type == "conv2d":
        return int(layer.options["out_channels"] * (channels * math.prod(pair(layer.options["kernel"])) + 1))
    if layer.type == "dense":
        return int(layer.options["units"] * (channels + 1))
    return 4 * channels


def channel_position(axis: int, rank: int) -> int | None:
    """The axis counted from 0, or None when it is not a channel axis of an array of this rank."""
    position = axis + rank if axis < 0 else axis
    return position if 0 < position < rank else None


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _through(index: int, layer: Layer, shape: Shape) -> tuple[Layer, Shape | None]:
    if layer.type == "batch_norm":
        return _channels(index, layer, shape), shape
    if layer.type == "conv2d":
        return _conv2d(index, layer, shape)
    if layer.type == "dense":
        if len(shape) != 2:
            raise ShapeError(
                index, "type", f"dense takes (batch, features), but {shape} reaches it: put flatten before it"
            )
        return _channels(index, layer, shape), (shape[0], layer.options["units"])
    if layer.type == "flatten":
        return layer, (shape[0], math.prod(shape[1:]))
    if layer.type == "global_avg_pool":
        if len(shape) < 3:
            raise ShapeError(index, "type", f"global_avg_pool needs spatial axes, but {shape} reaches it")
        layer = _channels(index, layer, shape)
        return layer, (shape[0], shape[layer.axis])
    return layer, shape if layer_type_of(layer.type).keeps_shape else None


def _channels(index: int, layer: Layer, shape: Shape) -> Layer:
    position = channel_position(layer.axis, len(shape))
    if position is None:
        what = "is the batch axis" if layer.axis in (0, -len(shape)) else f"does not exist in {shape}"
        raise ShapeError(index, "axis", f"axis {layer.axis} {what}; channels lie on 1 (first) or -1 (last)")
    found = shape[position]
    if layer.channels is not None and layer.channels != found:
        raise ShapeError(
            index, "channels", f"{layer.channels} channels, but axis {layer.axis} of {shape} holds {found}"
        )
    if found == 0:
        raise ShapeError(index, "channels", f"{shape} has no channels")
    return replace(layer, channels=found) if layer.channels is None else layer


def _conv2d(index: int, layer: Layer, shape: Shape) -> tuple[Layer, Shape]:
    if len(shape) != 4:
        raise ShapeError(index, "type", f"conv2d takes (batch, channels, height, width), but {shape} reaches it")
    if layer.axis != 1:
        raise ShapeError(index, "axis", "conv2d takes channels first (axis = 1)")
    kernel, stride, padding = (pair(layer.options[key]) for key in ("kernel", "stride", "padding"))
    sides = [
        (size + 2 * pad - window) // step + 1
        for size, window, step, pad in zip(shape[2:], kernel, stride, padding, strict=True)
    ]
    if min(sides) < 1:
        raise ShapeError(index, "kernel", f"a kernel of {kernel} does not fit into {shape}")
    return _channels(index, layer, shape), (shape[0], layer.options["out_channels"], *sides)


def layer_ranks(case: Case) -> list[int]:
    """Number of axes that reaches each layer; flatten, dense and global pooling leave two."""
    rank = max((len(spec.shape) for spec in case.inputs.values()), default=2)
    ranks = []
    for layer in case.network.layers:
        ranks.append(rank)
        rank = 2 if layer_type_of(layer.type).flattens else rank
    return ranks


def layer_path(case: Case) -> str:
    """The kernel path of a case's first BatchNorm layer: "2-D", "4-D", "4-D channels last"; "" without one.

    Conventions are measured per path, because they can differ: tf_keras divides by n − 1 on 4-D input only.
    """
    for layer, rank in zip(case.network.layers, layer_ranks(case), strict=True):
        if layer.type == "batch_norm":
            return f"{rank}-D channels last" if layer.axis == -1 and rank > 2 else f"{rank}-D"
    return ""
