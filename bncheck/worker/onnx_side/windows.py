"""Convolutions and pooling of an ONNX graph in float64: everything that slides a window.

Loaded by oracle.py by path. Python 3.7 syntax. Every operator is ``(node, given, opset) → output``.
"""

import math

import numpy as np


def windows(node, x, kernel, fill):
    """(x padded, view (N, C, *out, *kernel)) of a sliding window with strides, dilations and pads."""
    rank = len(kernel)
    strides, dilations = node.get("strides") or [1] * rank, node.get("dilations") or [1] * rank
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations)]
    pads = padding(node, x.shape[2:], reach, strides)
    x = np.pad(x, ((0, 0), (0, 0)) + pads, mode="constant", constant_values=fill)
    out = [(size - far) // step + 1 for size, far, step in zip(x.shape[2:], reach, strides)]
    inner = x.strides[2:]
    steps = [by * step for by, step in zip(inner, strides)] + [by * step for by, step in zip(inner, dilations)]
    return np.lib.stride_tricks.as_strided(x, x.shape[:2] + tuple(out) + tuple(kernel), x.strides[:2] + tuple(steps))


def padding(node, sizes, reach, strides):
    """((before, after), …) per axis."""
    auto, rank = node.get("auto_pad", "NOTSET"), len(reach)
    if auto in ("NOTSET", ""):
        given = node.get("pads") or [0] * (2 * rank)
        return tuple((given[axis], given[axis + rank]) for axis in range(rank))
    if auto == "VALID":
        return ((0, 0),) * rank
    found = []
    for size, far, step in zip(sizes, reach, strides):
        total = max((math.ceil(size / step) - 1) * step + far - size, 0)
        small = total // 2
        found.append((small, total - small) if auto == "SAME_UPPER" else (total - small, small))
    return tuple(found)


def conv(node, given, opset):
    x, weight = given[:2]
    rank, groups = weight.ndim - 2, node.get("group", 1)
    seen = windows(node, x, weight.shape[2:], 0.0)
    per, axes = x.shape[1] // groups, (1,) + tuple(range(2 + rank, 2 + 2 * rank))
    if per == 1 and rank <= 3:  # depthwise: hundreds of groups of one channel each
        places, taps = "xyz"[:rank], "uvw"[:rank]
        each = weight.reshape((groups, weight.shape[0] // groups) + weight.shape[2:])
        out = np.einsum("nc%s%s,cm%s->ncm%s" % (places, taps, taps, places), seen, each)
        return biased(out.reshape((x.shape[0], weight.shape[0]) + out.shape[3:]), given)
    parts = [
        np.tensordot(seen[:, g * per : (g + 1) * per], part, axes=(axes, (1,) + tuple(range(2, 2 + rank))))
        for g, part in enumerate(np.split(weight, groups))
    ]
    return biased(np.moveaxis(np.concatenate(parts, axis=-1), -1, 1), given)


def biased(out, given):
    """With the third input added, one number per channel, where there is one."""
    return out if len(given) < 3 or given[2] is None else out + given[2].reshape((1, -1) + (1,) * (out.ndim - 2))


def pool(node, given, opset):
    x, kernel = given[0], node.get("kernel_shape")
    axes, more = tuple(range(-len(kernel), 0)), behind_the_end(node, x, kernel)
    if node.kind == "MaxPool":
        return windows(node, np.pad(x, more, mode="constant", constant_values=-np.inf), kernel, -np.inf).max(axis=axes)
    total = windows(node, np.pad(x, more, mode="constant"), kernel, 0.0).sum(axis=axes)
    if not node.get("count_include_pad", 0):
        counted = np.pad(np.ones_like(x), more, mode="constant")
        return total / windows(node, counted, kernel, 0.0).sum(axis=axes)
    if not any(high for _, high in more):
        return total / np.prod(kernel)
    raise NotImplementedError("the oracle has no padded AveragePool with ceil_mode = 1 (node %r)" % node.name)


def behind_the_end(node, x, kernel):
    """What ceil_mode = 1 adds behind the end of every axis: a window that begins in the input, or in what is padded
    before it, may reach beyond."""
    rank, more = len(kernel), [(0, 0), (0, 0)]
    if not node.get("ceil_mode", 0):
        return more + [(0, 0)] * rank
    strides, dilations = node.get("strides") or [1] * rank, node.get("dilations") or [1] * rank
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations)]
    pads = padding(node, x.shape[2:], reach, strides)
    for size, far, step, (low, high) in zip(x.shape[2:], reach, strides, pads):
        count = -(-(size + low + high - far) // step) + 1
        count -= (count - 1) * step >= size + low  # it would begin behind the input
        more.append((0, max((count - 1) * step + far - (size + low + high), 0)))
    return more


def conv_transpose(node, given, opset):
    """Every input value puts its kernel, times itself, into the output at stride · place − pad."""
    x, weight = given[:2]
    rank, groups = weight.ndim - 2, node.get("group", 1)
    strides, dilations = node.get("strides") or [1] * rank, node.get("dilations") or [1] * rank
    more = node.get("output_padding") or [0] * rank
    reach = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations)]
    full = [(size - 1) * step + far for size, step, far in zip(x.shape[2:], strides, reach)]
    sizes = [size + extra for size, extra in zip(full, more)]
    pads = transposed_pads(node, x, strides, sizes)
    out = np.zeros((x.shape[0], weight.shape[1] * groups) + tuple(sizes))
    per, wide_by = x.shape[1] // groups, weight.shape[1]
    for tap in np.ndindex(*weight.shape[2:]):
        where = tuple(
            slice(place * by, place * by + (size - 1) * step + 1, step)
            for place, by, size, step in zip(tap, dilations, x.shape[2:], strides)
        )
        for g in range(groups):
            part = weight[(slice(g * per, (g + 1) * per), slice(None)) + tap]
            put = np.moveaxis(np.tensordot(x[:, g * per : (g + 1) * per], part, axes=((1,), (0,))), -1, 1)
            out[(slice(None), slice(g * wide_by, (g + 1) * wide_by)) + where] += put
    kept = tuple(slice(pads[axis], sizes[axis] - pads[axis + rank]) for axis in range(rank))
    return biased(out[(slice(None), slice(None)) + kept], given)


def transposed_pads(node, x, strides, sizes):
    """What is cut off in front of every axis, then behind: as given, or what is too much for the wanted shape."""
    rank, auto = len(strides), node.get("auto_pad", "NOTSET")
    wanted = node.get("output_shape")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * step for size, step in zip(x.shape[2:], strides)]
    if wanted is None:
        return (node.get("pads") or [0] * (2 * rank)) if auto != "VALID" else [0] * (2 * rank)
    total = [size - new for size, new in zip(sizes, list(wanted)[-rank:])]
    half = [each // 2 for each in total]
    rest = [each - low for each, low in zip(total, half)]
    return half + rest if auto == "SAME_UPPER" else rest + half


KINDS = {"Conv": conv, "ConvTranspose": conv_transpose, "MaxPool": pool, "AveragePool": pool}
