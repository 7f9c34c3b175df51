"""The deterministic fills of scenario_files/inputs.py in a few lines. Their source is copied into scripts, and run here
first: a script gets one only where it yields the recorded bytes."""

# ruff: noqa: E501
from __future__ import annotations

import inspect
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bncheck.scenario import InputSpec
from bncheck.scenario_files.shapes import channel_position
from bncheck.trace import Array


def normal(seed: list[int], count: int) -> Any:
    """Eight 32-bit pieces of PCG64's raw bits, summed, centred, scaled: mean 0, variance 1, the same bytes everywhere."""
    pieces = np.random.PCG64(seed).random_raw(count * 4).view(np.uint32).reshape(count, 8)
    return (pieces.sum(axis=1, dtype=np.int64) - 4 * (2**32 - 1)) * (1.224744871391589 / 2**32)


def uniform(seed: list[int], count: int) -> Any:
    """The top 53 of PCG64's raw bits, moved to mean 0 and variance 1: the same bytes everywhere."""
    return ((np.random.PCG64(seed).random_raw(count) >> np.uint64(11)) * 2.0**-53 - 0.5) * 3.4641016151377544


def exact(seed: list[int], many: int, channels: int, values: int) -> Any:
    """(many, channels, values) whole numbers: an offset of their own per batch and channel, pairs +j and -j around it."""
    rows, half = many * channels, values // 2
    raw = np.random.PCG64(seed).random_raw(rows * (half + values))
    pairs = (raw[: rows * half] >> np.uint64(62)).astype(np.int64).reshape(rows, half) + 1
    parts = np.concatenate([pairs, -pairs, np.zeros((rows, values - 2 * half), dtype=np.int64)], axis=1)
    order = np.argsort(raw[rows * half :].reshape(rows, values), axis=1, kind="stable")
    offset = (np.arange(many)[:, None] + np.arange(channels)) % 17 - 8
    return np.take_along_axis(parts, order, axis=1).reshape(many, channels, values) + offset[:, :, None]


FUNCTIONS: dict[str, Callable[..., Any]] = {"normal": normal, "uniform": uniform, "exact": exact}


def source_of(name: str) -> list[str]:
    text = inspect.getsource(FUNCTIONS[name]).replace("seed: list[int]", "seed").replace(") -> Any", ")")
    for word in ("count", "many", "channels", "values"):
        text = text.replace(f"{word}: int", word)
    return text.rstrip().splitlines()


def regenerate(name: str, array: Array, spec: InputSpec, what: str = "x") -> tuple[str, list[str]] | None:
    """(fill, lines that make ``array``, called ``name``); None where the recipe does not yield these very bytes."""
    fill = "normal" if what == "dy" else spec.fill
    if fill not in FUNCTIONS or array.size == 0 or array.dtype.name not in ("float16", "float32", "float64"):
        return None
    seed = [spec.seed, zlib.crc32(what.encode()), zlib.crc32(input_name(name, what).encode())]
    position = channel_position(spec.channel_axis, len(spec.shape))
    if what == "dy":
        made, text = normal(seed, array.size).reshape(array.shape), f"normal({seed}, {array.size}).reshape{array.shape}"
    elif fill == "exact" and position is not None:
        channels = array.shape[position + 1]
        size = (len(array), channels, math.prod(array.shape[1:]) // channels)
        others = tuple(side for axis, side in enumerate(array.shape[1:]) if axis != position)
        made = np.moveaxis(exact(seed, *size).reshape(*size[:2], *others), 1, position + 1)
        text = f"np.moveaxis(exact({seed}, {size[0]}, {size[1]}, {size[2]}).reshape{(*size[:2], *others)}, 1, {position + 1})"
    else:
        made = FUNCTIONS[fill](seed, array.size).reshape(array.shape)
        text = f"{fill}({seed}, {array.size}).reshape{array.shape}"
    return finish(name, array, spec, (made, text), fill=fill, position=None if what == "dy" else position)


def input_name(name: str, what: str) -> str:
    """The input's own name in a variable such as X_bad or DY_bad; plain X and DY are the input "main"."""
    return name.partition("_")[2] or "main"


def finish(
    name: str, array: Array, spec: InputSpec, made: tuple[Array, str], *, fill: str, position: int | None
) -> tuple[str, list[str]] | None:
    """Scale, move, cast and poison, as the lines say; None where that does not give the recorded bytes."""
    values, text = made
    if position is not None:
        (std, std_text), (mean, mean_text) = (spread(given, spec, position) for given in (spec.std, spec.mean))
        values = values * std + mean
        text += "" if std_text == "1.0" else f" * {std_text}"
        text += "" if mean_text == "0.0" else f" + {mean_text}"
    values = values.astype(array.dtype)
    # In C order: a framework takes another kernel for an array that lies in memory otherwise.
    lines = [f"{name} = ({text}).astype({array.dtype.name!r}, order='C')"]
    if spec.poison and position is not None:
        np.moveaxis(values, position + 1, 1)[:, spec.poison_channel, 0] = float(spec.poison)
        lines.append(
            f"np.moveaxis({name}, {position + 1}, 1)[:, {spec.poison_channel}, 0] = np.{spec.poison.lstrip('-')}"
            if not spec.poison.startswith("-")
            else f"np.moveaxis({name}, {position + 1}, 1)[:, {spec.poison_channel}, 0] = -np.inf"
        )
    if np.ascontiguousarray(values).tobytes() != np.ascontiguousarray(array).tobytes():
        return None
    checksum = zlib.crc32(np.ascontiguousarray(array).tobytes())
    lines.append(f'assert zlib.crc32(np.ascontiguousarray({name}).tobytes()) == {checksum}, "not the reported input"')
    return fill, lines


def spread(value: float | tuple[float, ...], spec: InputSpec, position: int) -> tuple[Any, str]:
    """A number, or one per channel shaped to broadcast, and how a script writes it."""
    if not isinstance(value, tuple):
        return value, repr(float(value))
    shape = [1] * len(spec.shape)
    shape[position] = len(value)
    return np.asarray(value, dtype=np.float64).reshape(shape), f"np.reshape({[float(v) for v in value]}, {shape})"
