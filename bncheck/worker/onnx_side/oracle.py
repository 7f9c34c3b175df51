"""The graph of an existing ONNX file in float64, BatchNormalization by the text of the opset that the file declares.

Loaded by backends/reference.py by path. Python 3.7 syntax. What the texts of BatchNormalization say:

opset 7, 9   five outputs (Y, mean, var, saved_mean, saved_var) mean training, one means inference; X, scale, B, mean
             and var share one type. Which variance the running one averages is left open: the population variance here,
             as opset 14 then wrote down.
opset 14     the attribute training_mode decides; three outputs in training (Y, running_mean, running_var), one in
             inference; the running variance averages the population variance; mean and var may have their own type.
opset 15     scale and B may have their own type as well.
In all of them running = running · momentum + batch · (1 − momentum).
"""

import importlib.util
import os

import numpy as np

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
part = BESIDE.part_of("onnx")


def model_of(files, path):
    """The worker's model contract on the file; ``files`` is onnx_side/file.py."""
    return playing(files, files.read(path))


RANDOM = ("RandomUniformLike", "RandomNormalLike", "RandomUniform", "RandomNormal", "Bernoulli", "Multinomial")


def playing(files, graph):
    norms = files.batch_norms(graph)
    if not files.OLDEST <= graph.opset <= files.NEWEST:
        raise NotImplementedError(
            "the file declares opset %d; BatchNormalization is known here from opset %d to %d, so there is nothing to "
            "hold it against" % (graph.opset, files.OLDEST, files.NEWEST)
        )
    for node in graph.nodes:
        if node.kind in RANDOM:
            raise NotImplementedError(
                "the %s node %r draws at random: no two runs of the file are alike" % (node.kind, node.name)
            )
        if node.kind not in KINDS and node.kind != "BatchNormalization":
            raise NotImplementedError("the oracle has no operator %s (node %r)" % (node.kind, node.name))
        if node.domain not in ("", "ai.onnx"):
            raise NotImplementedError("the oracle has no operator %s of %s" % (node.kind, node.domain))
    for node in graph.nodes:
        if node.kind == "Dropout" and files.dropout(graph, node)["drops"]:
            raise NotImplementedError(
                "the Dropout node %r drops at random: no two runs of the file are alike" % node.name
            )
    for norm in norms:
        check(files, graph, norm)
    return Model(files, graph, norms)


def check(files, graph, norm):
    """What the opset allows of this node."""
    name, node, opset = norm.layer, norm.node, graph.opset
    if opset < 9 and not node.get("spatial", 1):
        raise NotImplementedError("%s has spatial = 0, statistics per feature, which opset 9 dropped" % name)
    allowed = (1, 5) if opset < 14 else ((3,) if norm.training else (1,))
    if norm.outputs not in allowed:
        mode = "" if opset < 14 else " with training_mode = %d" % norm.training
        words = " or ".join(map(str, allowed))
        raise files.FileError(
            "%s has %d outputs; BatchNormalization of opset %d%s has %s" % (name, norm.outputs, opset, mode, words)
        )
    check_parameters(files, graph, norm)
    scale, shift, mean, var = (graph.types.get(each, "") for each in node.inputs[1:5])
    data = data_type(graph)
    pairs = [("B", shift, "scale", scale), ("var", var, "mean", mean)]
    if opset < 15:
        pairs.append(("scale", scale, "X", data))
    if opset < 14:
        pairs.append(("mean", mean, "X", data))
    for one, kind, other, wanted in pairs:
        if kind and wanted and kind != wanted:
            raise files.FileError(
                "in %s the input %s is %s and %s is %s; BatchNormalization of opset %d has one type for both"
                % (name, one, kind, other, wanted, opset)
            )


def check_parameters(files, graph, norm):
    """Each has one number per channel, and all are of the same length: what the file holds of them."""
    sizes = {}
    for word, name in zip(WORDS, norm.node.inputs[1:5]):
        array, kind = graph.weights.get(name), graph.types.get(name, "")
        if array is None:
            continue
        if kind and kind not in files.FLOATS:
            raise files.FileError(
                "in %s the input %s is %s; BatchNormalization takes floating-point numbers" % (norm.layer, word, kind)
            )
        one_per_channel(files, norm.layer, word, array)
        sizes.setdefault(array.size, word)
    if len(sizes) > 1:
        (one, first), (two, second) = list(sizes.items())[:2]
        raise files.FileError(
            "%s has %d values in its input %s and %d in %s; BatchNormalization has one per channel in each"
            % (norm.layer, one, first, two, second)
        )


def one_per_channel(files, layer, word, array):
    if array.ndim != 1:
        raise files.FileError(
            "in %s the input %s has the shape %s; BatchNormalization takes one number per channel, in one axis"
            % (layer, word, list(array.shape))
        )


def data_type(graph):
    """The type that runs through the file: that of its input, unless a Cast changes it on the way."""
    kinds = {kind for kind, _ in graph.inputs.values()}
    return "" if len(kinds) != 1 or any(node.kind == "Cast" for node in graph.nodes) else kinds.pop()


# The inputs of BatchNormalization behind X, as its text calls them.
WORDS = ("scale", "B", "mean", "var")


class Model:
    """Plays the nodes in the file's order, which ONNX requires to be a sorted one."""

    def __init__(self, files, graph, norms):
        self.files, self.graph = files, graph
        self.norms = {norm.layer: norm for norm in norms}
        self.of_node = {id(norm.node): norm for norm in norms}
        self.layers = list(self.norms)
        self.held, self.modes, self.seen = {}, {norm.layer: norm.training for norm in norms}, {}
        self.dropped = set()  # outputs that a node of this file has and that are not computed here
        self.outputs, self.empty = {}, False  # of the last forward, by name; whether an image in it had no values
        self.weights = {name: wide(array) for name, array in graph.weights.items()}
        for norm in norms:
            for what, name in zip(files.ROLES, norm.node.inputs[1:5]):
                places = files.behind(graph, name, graph.weights)
                if places is not None:
                    self.held[norm.layer, what] = self.play([graph.nodes[place] for place in places])[name]
        self.fixed = set(self.held)  # the rest is computed of the batch, and is no state of the layer

    def forward(self, x, mode):
        self.seen, self.empty, self.dropped = {}, False, set()
        feeds = {name: wide(array) for name, array in self.files.feed(self.graph, x).items()}
        before = dict(self.held), dict(self.modes)
        try:
            values = self.play(self.graph.nodes, feeds, mode)
        except Exception:
            self.held, self.modes = before  # as a runtime: what it refuses leaves nothing behind
            raise
        self.outputs = {name: values[name] for name in self.graph.outputs if name in values}
        return self.value(values, self.graph.outputs[0], "the file gives")

    def play(self, nodes, feeds=(), mode="as_is"):
        """{name: value} after the nodes, each from what is known by then."""
        values = dict(self.weights)
        values.update(feeds)
        for node in nodes:
            given = [self.value(values, name, node.kind + " reads") if name else None for name in node.inputs]
            if id(node) in self.of_node:
                found = self.normalise(self.of_node[id(node)], given, mode)
            else:
                found = operate(self.files, node, given, self.graph.opset)
            found = found if isinstance(found, (list, tuple)) else [found]
            self.empty = self.empty or (found[0].ndim > 2 and not found[0].size and node.kind != "Constant")
            values.update((name, value) for name, value in zip(node.outputs, found) if name)
            self.dropped.update(node.outputs[len(found) :])
        return values

    def value(self, values, name, who):
        if name in values:
            return values[name]
        if name in self.dropped:
            raise NotImplementedError("%s %s, an output that the oracle does not compute" % (who, name))
        raise self.files.FileError("%s %s, which nothing before it computes" % (who, name))

    def run_exported(self, folder, x):
        return {"output": self.forward(x, "as_is")}

    def normalise(self, norm, given, mode):
        """Outputs of one node; in training the running statistics move, whether or not an output shows them."""
        layer, x = norm.layer, given[0]
        training = norm.training if mode == "as_is" else mode != "eval"
        self.modes[layer] = training
        used = [self.held.get((layer, what), value) for what, value in zip(self.files.ROLES, given[1:])]
        self.fits(layer, x, used)
        gamma, beta, mean, var = used
        found = ()
        if training:
            axes = (0,) + tuple(range(2, x.ndim))
            batch, spread = x.mean(axis=axes), x.var(axis=axes)
            keep = norm.momentum
            mean, var = mean * keep + batch * (1 - keep), var * keep + spread * (1 - keep)
            self.held[layer, "running_mean"], self.held[layer, "running_var"] = mean, var
            found = (mean, var, batch, spread)[: 4 if self.graph.opset < 14 else 2]
            mean, var = batch, spread
        shape = (1, -1) + (1,) * (x.ndim - 2)
        scale = gamma / np.sqrt(var + norm.eps)
        out = (x - mean.reshape(shape)) * scale.reshape(shape) + beta.reshape(shape)
        self.seen[layer] = (x, out)
        return (out,) + found

    def fits(self, layer, x, used):
        if x.ndim < 2:
            raise NotImplementedError(
                "the input of %s has the shape %s; bncheck looks at BatchNormalization from two axes on"
                % (layer, list(x.shape))
            )
        for word, array in zip(WORDS, used):
            one_per_channel(self.files, layer, word, array)
            if array.size != x.shape[1]:
                raise self.files.FileError(
                    "%s gets %d channels (its input X has the shape %s) and has %d values in its input %s"
                    % (layer, x.shape[1], list(x.shape), array.size, word)
                )

    def flush(self):
        """Nothing waits."""

    def taps(self):
        return self.seen

    def axis(self, layer):
        return 1

    def state(self, layer):
        norm = self.norms[layer]
        found = {"training": int(self.modes[layer]), "momentum": norm.momentum, "eps": norm.eps}
        found.update((what, self.held[layer, what]) for what in self.files.ROLES if (layer, what) in self.fixed)
        return found

    def facts(self):
        return {"file": self.files.describe(self.graph)}


def wide(array):
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def operate(files, node, given, opset):
    """The outputs of a node that is no BatchNormalization. What NumPy refuses of the shapes, ONNX refuses too, in
    operators that are here in all their forms; elsewhere it may be this file that lacks a form."""
    least = 3 if node.kind == "Slice" and opset >= 10 else LEAST.get(node.kind, 1)
    if len(given) < least or any(value is None for value in given[:least]):
        there = len([value for value in given if value is not None])
        raise files.FileError(
            "the %s node %r has %d of the %d inputs that it needs" % (node.kind, node.name, there, least)
        )
    try:
        return KINDS[node.kind](node, given, opset)
    except (NotImplementedError, files.FileError):
        raise
    except Exception as error:
        shapes = ", ".join(str(list(value.shape)) for value in given if value is not None)
        if isinstance(error, (ValueError, IndexError)) and node.kind not in CHOOSY:
            raise files.FileError(
                "the %s node %r does not take the shapes %s: %s" % (node.kind, node.name, shapes, error)
            )
        raise NotImplementedError(
            "the oracle cannot play the %s node %r with inputs of the shapes %s (%s: %s)"
            % (node.kind, node.name, shapes, type(error).__name__, error)
        )


# ------------------------------------------------------------------------------------------------ the other nodes


def gemm(node, given, opset):
    a, b = given[:2]
    a, b = (a.T if node.get("transA", 0) else a), (b.T if node.get("transB", 0) else b)
    out = node.get("alpha", 1.0) * (a @ b)
    return out if len(given) < 3 or given[2] is None else out + node.get("beta", 1.0) * given[2]


def flatten(node, given, opset):
    axis = node.get("axis", 1)
    return given[0].reshape(int(np.prod(given[0].shape[:axis])), -1)


def reshape(node, given, opset):
    x, wanted = given[0], [int(size) for size in given[1]]
    if not node.get("allowzero", 0):
        wanted = [x.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    return x.reshape(wanted)


def axes_of(node, given):
    """Axes as an attribute (older opsets) or as the second input."""
    if len(given) > 1 and given[1] is not None:
        return tuple(int(axis) for axis in given[1].reshape(-1))
    return tuple(node.get("axes") or ())


def reduce(node, given, opset):
    axes, keep = axes_of(node, given), bool(node.get("keepdims", 1))
    if not axes and node.get("noop_with_empty_axes", 0):
        return given[0]
    if node.kind == "ReduceMean":
        return given[0].mean(axis=axes or None, keepdims=keep)
    total = (given[0] ** 2 if node.kind == "ReduceL2" else given[0]).sum(axis=axes or None, keepdims=keep)
    return np.sqrt(total) if node.kind == "ReduceL2" else total


def clip(node, given, opset):
    """The bounds are attributes before opset 11, inputs after."""
    low, high = (given[place] if len(given) > place else None for place in (1, 2))
    low, high = node.get("min") if low is None else low, node.get("max") if high is None else high
    return given[0] if low is None and high is None else np.clip(given[0], low, high)


def expand(node, given, opset):
    """Sizes of 1 are stretched, on either side."""
    return given[0] * np.ones([int(size) for size in given[1]])


def unsqueeze(node, given, opset):
    out = given[0]
    for axis in sorted(axes_of(node, given)):
        out = np.expand_dims(out, axis)
    return out


def drop(node, given, opset):
    if len(given) > 2 and given[2] is not None and bool(given[2].reshape(-1)[0]):
        raise NotImplementedError("the Dropout node %r drops at random: no two runs of the file are alike" % node.name)
    return [given[0], np.ones(given[0].shape, dtype=bool)]


def hard_sigmoid(node, given, opset):
    """max(0, min(1, alpha · x + beta)); alpha 0.2 and beta 0.5 unless the node says otherwise."""
    return np.clip(node.get("alpha", 0.2) * given[0] + node.get("beta", 0.5), 0.0, 1.0)


def hard_swish(node, given, opset):
    """x · HardSigmoid(x) with alpha 1/6 and beta 0.5 (opset 14)."""
    return given[0] * np.clip(given[0] / 6.0 + 0.5, 0.0, 1.0)


def softmax(node, given, opset):
    """Along one axis since opset 13; before, over everything from an axis (1 by default) on, as one row."""
    x, axis = given[0], node.get("axis", -1 if opset >= 13 else 1)
    rows = x if opset >= 13 else x.reshape(int(np.prod(x.shape[:axis])), -1)
    along = axis if opset >= 13 else 1
    parts = np.exp(rows - rows.max(axis=along, keepdims=True))
    return (parts / parts.sum(axis=along, keepdims=True)).reshape(x.shape)


def slice_of(node, given, opset):
    """starts, ends, axes and steps are attributes before opset 10, inputs after."""
    if opset < 10:
        starts, ends, axes, steps = node.get("starts"), node.get("ends"), node.get("axes"), None
    else:
        starts, ends, axes, steps = ([*given[1:], None, None, None])[:4]
    axes = range(len(starts)) if axes is None else [int(axis) for axis in axes]
    steps = [1] * len(starts) if steps is None else [int(step) for step in steps]
    wanted = [slice(None)] * given[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps):
        size = given[0].shape[axis]
        lowest = -1 if step < 0 else 0
        first = min(max(int(start) + (size if start < 0 else 0), 0), size + lowest)
        last = min(max(int(end) + (size if end < 0 else 0), lowest), size)
        wanted[axis] = slice(first, None if last < 0 else last, step)
    return given[0][tuple(wanted)]


def constant(node, given, opset):
    value = next(iter(node.attributes.values()))
    return wide(value[0] if isinstance(value, tuple) else np.array(value))


# Operators of which some forms are missing here; only a forward tells.
CHOOSY = (
    "MaxPool", "AveragePool", "Resize", "Upsample", "ConvTranspose", "ScatterND", "GatherND", "Pad", "Einsum", "TopK",
)  # fmt: skip
# How many inputs an operator needs, where it is not one.
LEAST = {
    "Constant": 0,
    **dict.fromkeys(
        ("Conv", "ConvTranspose", "Gemm", "MatMul", "Reshape", "Expand", "Gather", "Add", "Sub", "Mul", "Pow"), 2
    ),
    **part("operators").LEAST,
}
KINDS = {
    "Gemm": gemm,
    "Flatten": flatten,
    "Reshape": reshape,
    "ReduceMean": reduce,
    "ReduceSum": reduce,
    "ReduceL2": reduce,
    "Clip": clip,
    "Expand": expand,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "Softmax": softmax,
    "Slice": slice_of,
    "LeakyRelu": lambda node, given, opset: np.where(given[0] < 0, node.get("alpha", 0.01) * given[0], given[0]),
    "Tanh": lambda node, given, opset: np.tanh(given[0]),
    "Unsqueeze": unsqueeze,
    "Dropout": drop,
    "Constant": constant,
    "MatMul": lambda node, given, opset: given[0] @ given[1],
    "Add": lambda node, given, opset: given[0] + given[1],
    "Sub": lambda node, given, opset: given[0] - given[1],
    "Mul": lambda node, given, opset: given[0] * given[1],
    "Pow": lambda node, given, opset: given[0] ** given[1],
    "Sigmoid": lambda node, given, opset: 1 / (1 + np.exp(-given[0])),
    "Sqrt": lambda node, given, opset: np.sqrt(given[0]),
    "Relu": lambda node, given, opset: np.maximum(given[0], 0),
    "Identity": lambda node, given, opset: given[0],
    "Transpose": lambda node, given, opset: given[0].transpose(node.get("perm")),
    "Concat": lambda node, given, opset: np.concatenate(given, axis=node.get("axis", 1)),
    "Squeeze": lambda node, given, opset: given[0].squeeze(axes_of(node, given) or None),
    "Shape": lambda node, given, opset: np.array(given[0].shape[slice(node.get("start", 0), node.get("end"))]),
    "Gather": lambda node, given, opset: np.take(given[0], given[1].astype(np.int64), axis=node.get("axis", 0)),
    "GlobalAveragePool": lambda node, given, opset: given[0].mean(axis=tuple(range(2, given[0].ndim)), keepdims=True),
    **part("windows").KINDS,
    **part("resize").KINDS,
    **part("operators").KINDS,
}
