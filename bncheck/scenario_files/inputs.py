"""From a case to its arrays: the same bytes on every machine, NumPy version and Python version.

NumPy may change the streams of its Generator methods, and libm's log or cos differ in the last bit between
machines. So values come from the raw 64-bit output of PCG64 (which NumPy guarantees) and from integer
arithmetic, then one float64 multiplication and one addition, which IEEE 754 fixes to the last bit:

``uniform``  the top 53 bits / 2**53, moved to the wanted mean and standard deviation.
``normal``   the sum of eight 32-bit pieces (four raw values each), centred and scaled: mean 0, variance 1,
             excess kurtosis -0.15, never beyond 4.9. Near enough to a normal to look like data; no function
             that a machine could round differently is involved.
``exact``    mean + std·k with whole k: the batch's own offset plus pairs +j and -j (and a 0 when n is odd).
             With mean and std short binary fractions every sum of values and of squares is exact, in float32,
             in any order of summation; the mean is exact, and so is the variance when n is a power of two.
``arange``   0, 1, 2, … counting on from batch to batch.

An input's stream depends on its seed and its name, so two inputs that say the same still differ.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bncheck.errors import ScenarioError
from bncheck.scenario import CONSTANT_FILLS, Case, InputSpec, Layer, batch_counts
from bncheck.scenario_files.shapes import ShapeError, channel_position, pair, with_channels

Array = NDArray[Any]

# Values drawn at a time; a value of the normal fill takes 32 bytes of raw bits.
_CHUNK = 1 << 20
# Times that colliding batches are drawn anew before the input is given up as too coarse.
_ATTEMPTS = 64
# A batch of more values than this is only compared by its first ones first; see _repeated.
_GLANCE = 64


def make_inputs(case: Case) -> dict[str, Array]:
    """All arrays of a case, by the names of the worker protocol.

    ``x/<input>`` (U, *shape), U distinct batches (1 when they are the same); ``dy/<input>`` (U, *output shape),
    where a backward goes through that input and every layer's output shape is known; ``param/<layer>/<name>``
    (C,) or a weight's shape. bfloat16 is held as float32 values that bfloat16 can represent.

    Raises ScenarioError where a dtype cannot hold the values, or cannot keep the batches apart.
    """
    counts = batch_counts(case.inputs, case.events)
    through = {event.input for event in case.events if event.op == "backward"}
    arrays: dict[str, Array] = {}
    for name, spec in case.inputs.items():
        arrays[f"x/{name}"] = _batches(case, name, spec, counts[name])
    for name, spec in case.inputs.items():
        if name in through:
            gradient = _gradient(case, name, spec, counts[name])
            if gradient is not None:
                arrays[f"dy/{name}"] = gradient
    for layer in case.network.layers:
        for key, value in _parameters(layer).items():
            arrays[f"param/{layer.name}/{key}"] = cast(value, case.dtype)
    return arrays


def content_key(case: Case, arrays: Mapping[str, Array]) -> str:
    """16 hex digits that stand for what a case computes: network, events, dtype and every byte of its arrays.

    Equal content gives an equal key on any machine; names and labels of cases and scenarios do not enter, nor
    does the folder that a custom file lies in.
    """
    network = asdict(case.network)
    for key in ("custom", "file", "model"):
        network[key] = network[key] and PurePath(network[key]).name
    for key in ("replicas", "copied"):
        if not network[key]:
            del network[key]
    for layer in network["layers"]:
        if layer["same_as"] is None:
            del layer["same_as"]
    if not network["model"]:  # cases without one keep the keys that earlier runs gave them
        del network["model"], network["arguments"]
    if network["output"] is None:
        del network["output"]
    if network["parts"] == 1 and network["oracle"] == "batch_norm":
        del network["parts"], network["oracle"]
    if network["input_gradient"]:
        del network["input_gradient"]
    said: dict[str, Any] = {"network": network, "events": [asdict(event) for event in case.events], "dtype": case.dtype}
    views = {name: spec.view for name, spec in case.inputs.items() if spec.view != "contiguous"}
    said = {**said, "views": views} if views else said
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def cast(values: Array, dtype: str) -> Array:
    """Float64 values in ``dtype``, rounded to nearest even; bfloat16 as float32 that holds its values exactly."""
    with np.errstate(over="ignore"):
        if dtype != "bfloat16":
            return np.ascontiguousarray(values, dtype=dtype)
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    # Add half of the last kept place, less one unless that place is odd, and cut: round half to even. Inf stays
    # Inf; NaN is put in later, never cast.
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


# ------------------------------------------------------------------------------------------------- streams


def _stream(*seeds: int | str) -> np.random.PCG64:
    return np.random.PCG64([zlib.crc32(seed.encode()) if isinstance(seed, str) else seed for seed in seeds])


def _uniform(stream: np.random.PCG64, count: int) -> Array:
    """``count`` values in [0, 1): multiples of 2**-53, exact in float64."""
    raw: Array = stream.random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


# Eight uniform 32-bit pieces: their sum has mean 4·(2**32 - 1) and, divided by 2**32, variance 8/12.
_CENTRE = 4 * (2**32 - 1)
_SCALE = 1.224744871391589 / 2**32  # sqrt(3/2), written out: no libm


def _normal(stream: np.random.PCG64, count: int) -> Array:
    """``count`` values of mean 0 and variance 1; see the module's text."""
    found = np.empty(count)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        pieces = stream.random_raw(size * 4).view(np.uint32).reshape(size, 8)
        total = pieces.sum(axis=1, dtype=np.int64) - _CENTRE
        found[start : start + size] = total * _SCALE
    return found


# ------------------------------------------------------------------------------------------------- batches


def _batches(case: Case, name: str, spec: InputSpec, count: int) -> Array:
    stream = _stream(spec.seed, "x", name)
    if spec.fill in CONSTANT_FILLS:
        value = cast(np.full(1, spec.value), spec.dtype)
        array = np.full((count, *spec.shape), value[0])
    else:
        array = _distinct(case, name, spec, count, lambda first, many: _fill(stream, spec, first, many))
    if spec.shifts:
        parts = [np.full(spec.shape[0] // len(spec.shifts), shift) for shift in spec.shifts]
        column = np.concatenate(parts).reshape(-1, *[1] * (len(spec.shape) - 1))
        array = cast(array.astype(np.float64) + column, spec.dtype)
    for part, many in enumerate(spec.padding):
        share = spec.shape[0] // len(spec.padding)
        array[:, part * share : (part + 1) * share, ..., spec.shape[-1] - many :] = 0
    if not _finite(array):
        raise ScenarioError(
            f"{case.id}: input {name} holds values beyond what {spec.dtype} can hold",
            'choose a wider dtype or smaller values; poison = "inf" puts an Inf in on purpose',
        )
    if spec.poison:
        position = channel_position(spec.channel_axis, len(spec.shape))
        assert position is not None
        # Axis 0 of the array counts batches; once the channels have moved up, axis 2 counts samples.
        np.moveaxis(array, position + 1, 1)[:, spec.poison_channel, 0] = float(spec.poison)
    return array


def _finite(array: Array) -> bool:
    return bool(np.isfinite(array).all())


def _distinct(case: Case, name: str, spec: InputSpec, count: int, draw: Callable[[int, int], Array]) -> Array:
    """``count`` batches in the input's dtype, no two the same: those that repeat are drawn anew."""
    array = cast(draw(0, count), spec.dtype)
    if count == 1 or array.size == 0:
        return array
    for _ in range(_ATTEMPTS):
        repeated = _repeated(array)
        if not repeated:
            return array
        if spec.fill == "arange":
            break
        for index in repeated:
            array[index] = cast(draw(index, 1)[0], spec.dtype)
    raise ScenarioError(
        f"{case.id}: {spec.dtype} is too coarse to keep the {count} batches of input {name} apart",
        "choose a wider dtype, a larger std beside the mean, or more values per batch",
    )


def _repeated(array: Array) -> list[int]:
    """Batches that equal an earlier one."""
    flat = array.reshape(len(array), -1)
    glance = {row.tobytes() for row in flat[:, :_GLANCE]}
    if len(glance) == len(flat):
        return []
    seen: set[bytes] = set()
    found = []
    for index, row in enumerate(flat):
        key = hashlib.sha256(np.ascontiguousarray(row).view(np.uint8).data).digest()
        if key in seen:
            found.append(index)
        seen.add(key)
    return found


def _fill(stream: np.random.PCG64, spec: InputSpec, first: int, many: int) -> Array:
    """Float64 batches ``first`` … ``first + many - 1``, (many, *shape)."""
    shape = (many, *spec.shape)
    size = math.prod(shape)
    if spec.fill == "arange":
        start = first * math.prod(spec.shape)
        return np.arange(start, start + size, dtype=np.float64).reshape(shape)
    if spec.fill == "exact":
        unit = _exact(stream, spec, first, many)
    elif spec.fill == "uniform":
        # sqrt(12): a uniform of width 1 has variance 1/12.
        unit = ((_uniform(stream, size) - 0.5) * 3.4641016151377544).reshape(shape)
    else:
        unit = _normal(stream, size).reshape(shape)
    with np.errstate(over="ignore"):  # Inf, where the scenario asks for values beyond every float
        return unit * _per_channel(spec.std, spec) + _per_channel(spec.mean, spec)


def _per_channel(value: float | tuple[float, ...], spec: InputSpec) -> Array | float:
    if not isinstance(value, tuple):
        return value
    position = channel_position(spec.channel_axis, len(spec.shape))
    assert position is not None
    shape = [1] * len(spec.shape)
    shape[position] = len(value)
    return np.asarray(value, dtype=np.float64).reshape(shape)


def _exact(stream: np.random.PCG64, spec: InputSpec, first: int, many: int) -> Array:
    """Whole numbers in -12 … 12 whose sum over a channel is exactly n times the batch's offset.

    Offsets are (batch + channel) mod 17 - 8, so neighbouring batches and channels differ in their mean; the
    deviations are 1 … 4 with both signs, in a drawn order, so batches differ in their variance as well.
    """
    position = channel_position(spec.channel_axis, len(spec.shape))
    assert position is not None
    channels = spec.shape[position]
    values = math.prod(spec.shape) // channels
    half = values // 2
    rows = many * channels
    raw = stream.random_raw(rows * (half + values)) if rows * values else np.empty(0, dtype=np.uint64)
    deviation = (raw[: rows * half] >> np.uint64(62)).astype(np.int64).reshape(rows, half) + 1
    parts = [deviation, -deviation, np.zeros((rows, values - 2 * half), dtype=np.int64)]
    order = np.argsort(raw[rows * half :].reshape(rows, values), axis=1, kind="stable")
    signed = np.take_along_axis(np.concatenate(parts, axis=1), order, axis=1).reshape(many, channels, values)
    offset = (np.arange(first, first + many)[:, None] + np.arange(channels)) % 17 - 8
    whole = signed + offset[:, :, None]
    others = [size for axis, size in enumerate(spec.shape) if axis != position]
    return np.moveaxis(whole.reshape(many, channels, *others), 1, position + 1).astype(np.float64)


# ------------------------------------------------------------------------------------- gradients, parameters


def _gradient(case: Case, name: str, spec: InputSpec, count: int) -> Array | None:
    if not case.network.layers:
        return None
    try:
        _, output = with_channels(case.network.layers, spec.shape)
    except ShapeError:
        return None
    if output is None:
        return None
    shape = (count, *output)
    if spec.gradient == "ones":
        return np.ones(shape, dtype=cast(np.ones(1), spec.dtype).dtype)
    values = _normal(_stream(spec.seed, "dy", name), math.prod(shape)).reshape(shape)
    return cast(values, spec.dtype)


def _parameters(layer: Layer) -> dict[str, Array]:
    """Initial values, float64: what the layer sets; for conv2d and dense weights within ±1/sqrt(fan in)."""
    if layer.type in ("batch_norm", "custom"):
        found = {}
        for name, value in layer.initial.items():
            if isinstance(value, tuple):
                found[name] = np.array(value)
            elif layer.channels is not None:
                found[name] = np.full(layer.channels, value)
        return found
    if layer.type == "conv2d" and layer.channels is not None:
        out = layer.options["out_channels"]
        shape: tuple[int, ...] = (out, layer.channels, *pair(layer.options["kernel"]))
    elif layer.type == "dense" and layer.channels is not None:
        out = layer.options["units"]
        shape = (out, layer.channels)
    else:
        return {}
    stream = _stream("param", layer.name)
    bound = 1.0 / math.sqrt(math.prod(shape[1:]))
    weight = (_uniform(stream, math.prod(shape)) * 2.0 - 1.0) * bound
    bias = np.zeros(out) if layer.options.get("bias") == "zeros" else (_uniform(stream, out) * 2.0 - 1.0) * bound
    return {"weight": weight.reshape(shape), "bias": bias}
