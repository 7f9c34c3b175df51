"""Resize and Upsample of an ONNX graph in float64.

Loaded by oracle.py by path. Python 3.7 syntax. Every operator is ``(node, given, opset) → output``.
"""

import math

import numpy as np

# Place in the output → place in the input: (places, scale, length of the input, of the output).
COORDINATES = {
    "half_pixel": lambda at, scale, length, size: (at + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda at, scale, length, size: (at + 0.5) / scale - 0.5 if size > 1 else at * 0.0,
    "asymmetric": lambda at, scale, length, size: at / scale,
    "align_corners": lambda at, scale, length, size: at * (length - 1) / (size - 1) if size > 1 else at * 0.0,
}
NEAREST = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    "round_prefer_floor": lambda v: np.ceil(v - 0.5),
}


def resize(node, given, opset):
    """Nearest neighbour and (bi)linear, axis by axis; cubic, antialias and regions of interest are missing."""
    x, mode, (scales, sizes, usual) = given[0], node.get("mode", "nearest"), asked_size(node, given, opset)
    if mode not in ("nearest", "linear") or node.get("antialias", 0) or usual not in COORDINATES:
        raise NotImplementedError("the oracle has no Resize of mode %s with %s (node %r)" % (mode, usual, node.name))
    rule = node.get("nearest_mode", "round_prefer_floor") if opset >= 11 else "floor"
    for axis, (scale, size) in enumerate(zip(scales, sizes)):
        if size == x.shape[axis] and scale == 1:
            continue
        length, places = x.shape[axis], np.arange(size)
        where = COORDINATES[usual](places, scale, length, size)
        if mode == "nearest":
            x = np.take(x, np.clip(NEAREST[rule](where), 0, length - 1).astype(np.int64), axis=axis)
            continue
        where = np.clip(where, 0, length - 1)
        low = np.floor(where).astype(np.int64)
        share = (where - low).reshape((-1,) + (1,) * (x.ndim - axis - 1))
        high = np.minimum(low + 1, length - 1)
        x = np.take(x, low, axis=axis) * (1 - share) + np.take(x, high, axis=axis) * share
    return x


def asked_size(node, given, opset):
    """(scales, sizes, rule of coordinates), one scale and size per axis of the input."""
    x = given[0]
    scales = given[2] if opset >= 11 and len(given) > 2 else given[1] if opset < 11 and len(given) > 1 else None
    scales = node.get("scales") if scales is None and node.kind == "Upsample" else scales
    sizes = given[3] if opset >= 11 and len(given) > 3 else None
    axes = node.get("axes") if opset >= 18 else None
    axes = list(range(x.ndim)) if not axes else [axis % x.ndim for axis in axes]
    usual = node.get("coordinate_transformation_mode", "half_pixel") if opset >= 11 else "asymmetric"
    by, new = [1.0] * x.ndim, list(x.shape)
    if sizes is not None and np.size(sizes):
        if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise NotImplementedError("the oracle resizes by stretching only (node %r)" % node.name)
        for axis, size in zip(axes, np.asarray(sizes).reshape(-1)):
            by[axis], new[axis] = float(size) / x.shape[axis], int(size)
    else:
        for axis, scale in zip(axes, np.asarray(scales, dtype=np.float64).reshape(-1)):
            by[axis], new[axis] = float(scale), int(math.floor(x.shape[axis] * float(scale)))
    return by, new, usual


KINDS = {"Resize": resize, "Upsample": resize}
