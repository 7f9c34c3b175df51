"""Which values share one mean and one variance, and which of them go into it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bncheck.trace import Array

Shape = tuple[int, ...]  # samples, channels, positions
MOST_CHUNKS, MOST_STRIDES = 64, 4


@dataclass(frozen=True)
class Group:
    """``kind`` says who shares: ``batch`` (the usual), ``chunks`` and ``parts`` of the batch, ``strides`` of it,
    ``sample``, ``channels`` of a sample, ``layer``, ``pixel`` (all channels of one position of a sample), ``position``,
    ``everything``; ``size`` is its number.

    ``taken`` says which of the values go in: ``all``, the ``first`` or ``last`` ``keep`` samples, ``first positions``,
    ``first columns`` (of rows of ``size``), ``strided samples``, ``strided positions``, ``nonzero`` values,
    ``unpadded`` positions (not zero in all channels)."""

    kind: str = "batch"
    size: int = 0
    taken: str = "all"
    keep: int = 0

    @property
    def usual(self) -> bool:
        return self == Group()


SMALL = 20_000  # values of a batch whose numbers of groups are kept: many ways to share are tried on the same shape


def numbered(group: Group, shape: Shape) -> tuple[Array, Array]:
    """(the channel of each group, (N, C, P) the number of the group of each value, counted from 0)."""
    return (numbered_anew if math.prod(shape) > SMALL else numbered_once)(group.kind, group.size, shape)


def numbered_anew(kind: str, size: int, shape: Shape) -> tuple[Array, Array]:
    samples, channels, positions = shape
    n, p = np.arange(samples)[:, None, None], np.arange(positions)
    if kind == "chunks":
        which = n // size
    elif kind == "parts":
        which = np.searchsorted(bounds_of(samples, size), n, side="right")
    elif kind == "strides":
        which = n % size
    else:
        pixel = n * positions + p
        which = {"sample": n, "channels": n, "layer": n, "pixel": pixel, "position": p}.get(kind, 0 * n)
    width = {"layer": channels, "pixel": channels, "everything": channels, "channels": size}.get(kind, 1)
    many, of_channels = -(-channels // width), np.arange(channels)[:, None] // width
    ids = np.empty(shape, np.intp)
    np.add(which * many, of_channels, out=ids)
    ids.flags.writeable = False
    return np.tile(np.arange(many), int(which.max()) + 1 if ids.size else 0), ids


numbered_once = functools.lru_cache(maxsize=128)(numbered_anew)


def bounds_of(samples: int, parts: int) -> Array:
    """Where each part but the first begins, as numpy.array_split and torch.tensor_split cut."""
    sizes = [samples // parts + (part < samples % parts) for part in range(parts)]
    return np.cumsum(sizes)[:-1]


def mask(group: Group, x: Array) -> Array:
    """(N, C, P) bool: the values that go in."""
    n, _, p = np.ogrid[: x.shape[0], : x.shape[1], : x.shape[2]]
    if group.taken == "unpadded":
        return np.broadcast_to((x != 0).any(axis=1, keepdims=True), x.shape)
    if group.taken == "nonzero":
        return np.asarray(x != 0)
    chosen = {
        "first": n < group.keep,
        "last": n >= x.shape[0] - group.keep,
        "first positions": p < group.keep,
        "first columns": p % max(group.size, 1) < group.keep,
        "strided samples": n % max(group.keep, 1) == 0,
        "strided positions": p % max(group.keep, 1) == 0,
    }.get(group.taken)
    return np.ones(x.shape, dtype=bool) if chosen is None else np.broadcast_to(chosen, x.shape)


@dataclass(frozen=True)
class Moments:
    """Of each group of one batch: values that went in, their mean, biased variance and mean square, and its channel."""

    count: Array
    mean: Array
    var: Array
    square: Array
    channel: Array
    ids: Array  # (N, C, P) group of each value

    def spread(self, values: Array) -> Array:
        """A number per group, for each value."""
        return np.asarray(values[self.ids])


def moments(group: Group, x: Array) -> Moments:
    """Two-pass moments of each group; NaN where nothing goes in."""
    channel, ids = numbered(group, x.shape)
    flat, values, many = ids.ravel(), x.ravel(), len(channel)
    kept = None if group.taken == "all" else mask(group, x).ravel()
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.bincount(flat, kept, many).astype(np.float64)
        mean = np.bincount(flat, values if kept is None else kept * values, many) / count
        squares = (values - mean[flat]) ** 2
        var = np.bincount(flat, squares if kept is None else np.where(kept, squares, 0.0), many) / count
    return Moments(count=count, mean=mean, var=var, square=var + mean**2, channel=channel, ids=ids)


def groupings(shape: Shape) -> Iterator[Group]:
    """Every way to share that is tried, beside the usual one; the coarsest of a kind first."""
    samples, channels, positions = shape
    for size in range(2, min(samples // 2, MOST_STRIDES) + 1):
        yield Group("strides", size)
    if positions > 1:
        yield Group("sample")
        yield Group("position")
    if channels > 1:
        yield Group("everything")
        yield Group("layer")
        for size in range(2, channels):
            if channels % size == 0:
                yield Group("channels", size)
        if positions > 1 and channels > 2:  # any line goes through two values
            yield Group("pixel")
    yield from chunked(samples)


def chunked(samples: int) -> Iterator[Group]:
    """Chunks of equal size, then those whose last one is smaller, and as many parts of nearly the same size."""
    sizes = sorted(range(2, samples), key=lambda size: (samples % size != 0, -size))
    if samples > MOST_CHUNKS:
        sizes = [size for size in sizes if size in {-(-samples // parts) for parts in range(2, MOST_CHUNKS)}]
    for size in sizes:
        yield Group("chunks", size)
    for parts in range(2, min(samples // 2, MOST_CHUNKS) + 1):
        if samples % parts:
            yield Group("parts", parts)


def subsets(x: Array, width: int = 1) -> Iterator[Group]:
    """Every choice of values that is tried for the statistics of the whole batch; positions are rows of ``width``.

    Kinds take turns: whoever stops early has then tried some of each, halves before odd parts."""
    samples, _, positions = x.shape
    strides = range(2, MOST_STRIDES + 1)
    some = parts_of(samples) if samples <= 4 * MOST_CHUNKS else []
    kinds = (
        [Group(taken=word) for word in ("unpadded", "nonzero") if (x == 0).any()],
        [Group(taken="first", keep=keep) for keep in some],
        [Group(taken="last", keep=keep) for keep in some],
        [Group(taken="first columns", keep=keep, size=width) for keep in parts_of(width) if width < positions],
        [Group(taken="strided samples", keep=keep) for keep in strides if samples >= 2 * keep],
        [Group(taken="strided positions", keep=keep) for keep in strides if positions >= 2 * keep],
        [Group(taken="first positions", keep=keep) for keep in parts_of(positions) if positions <= 16 * MOST_CHUNKS],
    )
    for turn in itertools.zip_longest(*kinds):
        yield from (group for group in turn if group is not None)


def parts_of(many: int) -> list[int]:
    """How many of them may be taken, the half first."""
    return sorted(range(1, many), key=lambda keep: abs(2 * keep - many))


def words(group: Group, samples: int, positions: int) -> str:
    """The values that share one mean and one variance, in words."""
    if group.taken != "all":
        return {
            "unpadded": "the positions that are not zero in every channel",
            "nonzero": "the values that are not zero",
            "first": f"the first {group.keep} of {samples} samples",
            "last": f"the last {group.keep} of {samples} samples",
            "first positions": f"the first {group.keep} of {positions} positions",
            "first columns": f"the first {group.keep} of {group.size} positions of the last axis",
            "strided samples": f"every {ordinal(group.keep)} sample",
            "strided positions": f"every {ordinal(group.keep)} position",
        }[group.taken]
    return {
        "chunks": "each half of the batch on its own"
        if 2 * group.size == samples
        else f"each chunk of {group.size} samples on its own",
        "parts": f"each of {group.size} parts of the batch on its own",
        "strides": f"{strided(group.size)} on its own",
        "sample": "each sample and channel on its own",
        "channels": f"each sample's groups of {group.size} channels",
        "layer": "each sample on its own, over all channels",
        "pixel": "each position of each sample on its own, over all channels",
        "position": "each position on its own",
        "everything": "all channels together",
    }.get(group.kind, "the whole batch")


def strided(size: int) -> str:
    """Who shares where sample k lies in group k % size; "every second sample on its own" would be single samples."""
    return f"each of {size} sets of every {ordinal(size)} sample"


def ordinal(number: int) -> str:
    return {2: "second", 3: "third", 4: "fourth"}.get(number, f"{number}th")
