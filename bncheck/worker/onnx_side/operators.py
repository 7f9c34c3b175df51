"""More operators of real exported networks, beside those of oracle.py: in float64, as their newest texts say.

Loaded by oracle.py by path. Python 3.7 syntax. Every function is ``(node, given, opset) → output or list of outputs``.
NotImplementedError where a form is missing.
"""

import math

import numpy as np

INTEGERS = {2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_}
INTEGERS.update({12: np.uint32, 13: np.uint64})
erf = np.vectorize(math.erf, otypes=[np.float64])


def at(given, place):
    """An optional input."""
    return given[place] if len(given) > place else None


def numbers(value):
    return [int(each) for each in np.asarray(value).reshape(-1)]


def cast(node, given, opset):
    """Floating-point types are all float64 here; whole numbers lose what is behind the point."""
    kind = INTEGERS.get(node.get("to"))
    if kind is None:
        return given[0].astype(np.float64) if given[0].dtype.kind != "U" else given[0]
    return given[0].astype(kind) if kind is np.bool_ else np.trunc(given[0]).astype(kind)


# ------------------------------------------------------------------------------------------------- element by element


def gelu(node, given, opset):
    x = given[0]
    if node.get("approximate", "none") == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def elu(node, given, opset):
    x, alpha = given[0], node.get("alpha", 1.67326319217681884765625 if node.kind == "Selu" else 1.0)
    if node.kind == "Celu":
        return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha))
    gain = node.get("gamma", 1.05070102214813232421875) if node.kind == "Selu" else 1.0
    return gain * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def softplus(node, given, opset):
    return np.logaddexp(0.0, given[0])


def mish(node, given, opset):
    return given[0] * np.tanh(softplus(node, given, opset))


def swish(node, given, opset):
    return given[0] / (1 + np.exp(-node.get("alpha", 1.0) * given[0]))


def prelu(node, given, opset):
    """The slope goes in front to back, as everywhere; exporters give it the shape (C, 1, 1)."""
    x, slope = given[:2]
    return np.where(x < 0, slope * x, x)


def divide(node, given, opset):
    """Whole numbers are divided towards zero."""
    a, b = given[:2]
    whole = a.dtype.kind in "iu" and b.dtype.kind in "iu"
    return np.trunc(a / b).astype(a.dtype) if whole else a / b


def modulo(node, given, opset):
    return np.fmod(given[0], given[1]) if node.get("fmod", 0) else np.mod(given[0], given[1])


def folded(function):
    """An operator that takes any number of inputs, two by two."""

    def play(node, given, opset):
        found = given[0]
        for each in given[1:]:
            found = function(found, each)
        return found

    return play


def mean_of(node, given, opset):
    return folded(np.add)(node, given, opset) / len(given)


def single(function):
    return lambda node, given, opset: function(given[0])


def double(function):
    return lambda node, given, opset: function(given[0], given[1])


# ------------------------------------------------------------------------------------------------------- along axes


def axes_of(node, given):
    """As an attribute (older opsets) or as the second input; None: all."""
    if at(given, 1) is not None:
        return tuple(numbers(given[1])) or None
    return tuple(node.get("axes") or ()) or None


def reduce(node, given, opset):
    x, axes, keep = given[0], axes_of(node, given), bool(node.get("keepdims", 1))
    if axes is None and node.get("noop_with_empty_axes", 0):
        return x
    if node.kind == "ReduceLogSumExp":
        top = x.max(axis=axes, keepdims=True)
        total = np.log(np.exp(x - top).sum(axis=axes, keepdims=True)) + top
        return total if keep else np.squeeze(total, axis=axes)
    function = {
        "ReduceMax": lambda v: v.max(axis=axes, keepdims=keep),
        "ReduceMin": lambda v: v.min(axis=axes, keepdims=keep),
        "ReduceProd": lambda v: v.prod(axis=axes, keepdims=keep),
        "ReduceL1": lambda v: np.abs(v).sum(axis=axes, keepdims=keep),
        "ReduceSumSquare": lambda v: (v**2).sum(axis=axes, keepdims=keep),
        "ReduceLogSum": lambda v: np.log(v.sum(axis=axes, keepdims=keep)),
    }[node.kind]
    return np.asarray(function(x))


def arg(node, given, opset):
    """ArgMax and ArgMin; the first of equals unless select_last_index."""
    x, axis = given[0], node.get("axis", 0)
    find = np.argmax if node.kind == "ArgMax" else np.argmin
    if node.get("select_last_index", 0):
        found = x.shape[axis] - 1 - find(np.flip(x, axis), axis=axis)
    else:
        found = find(x, axis=axis)
    return np.expand_dims(found, axis) if node.get("keepdims", 1) else found


def log_softmax(node, given, opset):
    x, axis = given[0], node.get("axis", -1 if opset >= 13 else 1)
    rows = x if opset >= 13 else x.reshape(int(np.prod(x.shape[:axis])), -1)
    along = axis if opset >= 13 else 1
    rows = rows - rows.max(axis=along, keepdims=True)
    return (rows - np.log(np.exp(rows).sum(axis=along, keepdims=True))).reshape(x.shape)


def layer_norm(node, given, opset):
    x, scale, shift = given[0], given[1], at(given, 2)
    first = node.get("axis", -1) % x.ndim
    axes = tuple(range(first, x.ndim))
    mean, var = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(var + node.get("epsilon", 1e-5))
    out = (x - mean) * inverse * scale
    return [out if shift is None else out + shift, mean, inverse]


def per_channel(value, x):
    return value.reshape((1, -1) + (1,) * (x.ndim - 2))


def instance_norm(node, given, opset):
    x, scale, shift = given[:3]
    axes = tuple(range(2, x.ndim))
    out = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + node.get("epsilon", 1e-5))
    return out * per_channel(scale, x) + per_channel(shift, x)


def group_norm(node, given, opset):
    """scale and bias are per group up to opset 20, per channel from 21 on."""
    x, scale, shift = given[:3]
    groups = node.get("num_groups")
    parts = x.reshape((x.shape[0], groups, -1))
    out = (parts - parts.mean(axis=2, keepdims=True)) / np.sqrt(
        parts.var(axis=2, keepdims=True) + node.get("epsilon", 1e-5)
    )
    if scale.size == groups and scale.size != x.shape[1]:
        scale, shift = (np.repeat(each, x.shape[1] // groups) for each in (scale, shift))
    return out.reshape(x.shape) * per_channel(scale, x) + per_channel(shift, x)


def lp_norm(node, given, opset):
    order, axis = node.get("p", 2), node.get("axis", -1)
    total = (
        np.abs(given[0]).sum(axis=axis, keepdims=True)
        if order == 1
        else np.sqrt((given[0] ** 2).sum(axis=axis, keepdims=True))
    )
    return given[0] / np.where(total == 0, 1, total)


def lrn(node, given, opset):
    x, size = given[0], node.get("size")
    before, count = (size - 1) // 2, x.shape[1]
    square = np.stack(
        [(x[:, max(0, c - before) : min(count, c + size - before)] ** 2).sum(axis=1) for c in range(count)], axis=1
    )
    return x / (node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * square) ** node.get("beta", 0.75)


# ------------------------------------------------------------------------------------------------- shapes and places


def split(node, given, opset):
    x, axis = given[0], node.get("axis", 0)
    sizes = at(given, 1) if opset >= 13 else node.get("split")
    if sizes is None:
        count, size = len(node.outputs), x.shape[axis]
        each = -(-size // count)
        sizes = [min(each, size - place * each) for place in range(count)]
    return np.split(x, np.cumsum(numbers(sizes))[:-1], axis=axis)


def pad(node, given, opset):
    x, mode = given[0], node.get("mode", "constant")
    pads = node.get("pads") if opset < 11 else given[1]
    fill = node.get("value", 0.0) if opset < 11 else at(given, 2)
    pads, axes = numbers(pads), at(given, 3)
    axes = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in numbers(axes)]
    wanted = [(0, 0)] * x.ndim
    for place, axis in enumerate(axes):
        wanted[axis] = (pads[place], pads[place + len(axes)])
    cut = tuple(slice(max(-low, 0), size - max(-high, 0)) for (low, high), size in zip(wanted, x.shape))
    wide = [(max(low, 0), max(high, 0)) for low, high in wanted]
    if mode == "constant":
        return np.pad(
            x[cut],
            wide,
            mode="constant",
            constant_values=0.0 if fill is None else fill.reshape(-1)[0] if isinstance(fill, np.ndarray) else fill,
        )
    return np.pad(x[cut], wide, mode={"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode])


def tile(node, given, opset):
    return np.tile(given[0], numbers(given[1]))


def constant_of_shape(node, given, opset):
    value = node.get("value")
    value = value[0] if isinstance(value, tuple) else value
    fill = 0.0 if value is None else np.asarray(value).reshape(-1)[0]
    return np.full(numbers(given[0]), fill, dtype=np.float64 if np.asarray(fill).dtype.kind == "f" else None)


def range_of(node, given, opset):
    start, limit, step = (each.reshape(-1)[0] for each in given[:3])
    return np.arange(start, limit, step)


def where(node, given, opset):
    return np.where(given[0], given[1], given[2])


def gather_elements(node, given, opset):
    return np.take_along_axis(given[0], given[1].astype(np.int64), axis=node.get("axis", 0))


def gather_nd(node, given, opset):
    x, places, batch = given[0], given[1].astype(np.int64), node.get("batch_dims", 0)
    if batch == 0:
        return x[tuple(np.moveaxis(places, -1, 0))]
    lead = x.shape[:batch]
    rows, at_rows = x.reshape((-1,) + x.shape[batch:]), places.reshape((-1,) + places.shape[batch:])
    found = np.stack([row[tuple(np.moveaxis(where_, -1, 0))] for row, where_ in zip(rows, at_rows)])
    return found.reshape(lead + found.shape[1:])


def scatter_nd(node, given, opset):
    if node.get("reduction", "none") != "none":
        raise NotImplementedError("the oracle has no ScatterND with a reduction (node %r)" % node.name)
    out = given[0].copy()
    out[tuple(np.moveaxis(given[1].astype(np.int64), -1, 0))] = given[2]
    return out


def top_k(node, given, opset):
    x, count, axis = given[0], int(given[1].reshape(-1)[0]), node.get("axis", -1)
    keys = -x if node.get("largest", 1) else x
    places = np.take(np.argsort(keys, axis=axis, kind="stable"), range(count), axis=axis)
    return [np.take_along_axis(x, places, axis=axis), places]


def depth_to_space(node, given, opset):
    x, by = given[0], node.get("blocksize")
    n, c, h, w = x.shape
    if node.get("mode", "DCR") == "DCR":
        parts = x.reshape(n, by, by, c // by**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // by**2, by, by, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // by**2, h * by, w * by)


def space_to_depth(node, given, opset):
    x, by = given[0], node.get("blocksize")
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // by, by, w // by, by).transpose(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * by * by, h // by, w // by)


def trilu(node, given, opset):
    k = 0 if at(given, 1) is None else int(given[1].reshape(-1)[0])
    return np.triu(given[0], k) if node.get("upper", 1) else np.tril(given[0], k)


def one_hot(node, given, opset):
    places, depth, values = given[0].astype(np.int64), int(given[1].reshape(-1)[0]), given[2]
    hot = np.where((places % depth)[..., None] == np.arange(depth), values[1], values[0])
    return np.moveaxis(hot, -1, node.get("axis", -1))


def global_max_pool(node, given, opset):
    return given[0].max(axis=tuple(range(2, given[0].ndim)), keepdims=True)


def einsum(node, given, opset):
    equation = node.get("equation")
    return np.einsum(equation.decode() if isinstance(equation, bytes) else equation, *given)


KINDS = {
    "Cast": cast,
    "CastLike": lambda node, given, opset: given[0].astype(given[1].dtype),
    "Gelu": gelu,
    "Elu": elu,
    "Selu": elu,
    "Celu": elu,
    "Softplus": softplus,
    "Mish": mish,
    "Swish": swish,
    "PRelu": prelu,
    "Div": divide,
    "Mod": modulo,
    "Erf": single(erf),
    "Abs": single(np.abs),
    "Neg": single(np.negative),
    "Exp": single(np.exp),
    "Log": single(np.log),
    "Floor": single(np.floor),
    "Ceil": single(np.ceil),
    "Round": single(np.rint),
    "Sign": single(np.sign),
    "Reciprocal": single(np.reciprocal),
    "Sin": single(np.sin),
    "Cos": single(np.cos),
    "Not": single(np.logical_not),
    "Equal": double(np.equal),
    "Less": double(np.less),
    "LessOrEqual": double(np.less_equal),
    "Greater": double(np.greater),
    "GreaterOrEqual": double(np.greater_equal),
    "And": double(np.logical_and),
    "Or": double(np.logical_or),
    "Xor": double(np.logical_xor),
    "Max": folded(np.maximum),
    "Min": folded(np.minimum),
    "Sum": folded(np.add),
    "Mean": mean_of,
    "ReduceMax": reduce,
    "ReduceMin": reduce,
    "ReduceProd": reduce,
    "ReduceL1": reduce,
    "ReduceSumSquare": reduce,
    "ReduceLogSum": reduce,
    "ReduceLogSumExp": reduce,
    "ArgMax": arg,
    "ArgMin": arg,
    "LogSoftmax": log_softmax,
    "LayerNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LpNormalization": lp_norm,
    "LRN": lrn,
    "Split": split,
    "Pad": pad,
    "Tile": tile,
    "ConstantOfShape": constant_of_shape,
    "Range": range_of,
    "Where": where,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterND": scatter_nd,
    "TopK": top_k,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Trilu": trilu,
    "OneHot": one_hot,
    "GlobalMaxPool": global_max_pool,
    "Einsum": einsum,
    "Size": lambda node, given, opset: np.array(given[0].size),
}
LEAST = dict.fromkeys(
    (
        "Div",
        "Mod",
        "PRelu",
        "Equal",
        "Less",
        "LessOrEqual",
        "Greater",
        "GreaterOrEqual",
        "And",
        "Or",
        "Xor",
        "Tile",
        "GatherElements",
        "GatherND",
        "TopK",
        "LayerNormalization",
        "CastLike",
    ),
    2,
)
LEAST.update(dict.fromkeys(("Range", "Where", "ScatterND", "OneHot", "InstanceNormalization", "GroupNormalization"), 3))
