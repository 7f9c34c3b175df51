"""Read an existing ONNX file: its graph, weights, opset and BatchNormalization nodes. NumPy and nothing else.

Loaded by backends by path. Python 3.7 syntax. It reads protobuf itself, because the reference plays such a file in
whatever interpreter bncheck runs in, and because what a file declares has to be readable where no onnx package is
(torch 1.1). Field numbers are those of onnx.proto. The file may come from anywhere: every length is checked, and
external data stays inside the file's folder. What is wrong with it is a FileError, one sentence.
"""

import importlib.util
import os
import re
import struct

import numpy as np

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
part = BESIDE.part_of("onnx")


wire = part("protobuf")
FileError, fields, numbers, signed, text = wire.FileError, wire.fields, wire.numbers, wire.signed, wire.text

LARGEST = 2**31 - 1  # bytes of a protobuf message
# The newest opset whose operators are known here (onnx 1.23); BatchNormalization last changed in 15.
OLDEST, NEWEST = 7, 28
TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
FLOATS = ("float16", "float32", "float64", "bfloat16")
ROLES = ("gamma", "beta", "running_mean", "running_var")


class Node:
    """One operation: kind, names of its inputs and outputs ("" = left out), attributes as Python values."""

    def __init__(self, kind, name, inputs, outputs, attributes, domain=""):
        self.kind, self.name, self.inputs, self.outputs = kind, name, inputs, outputs
        self.attributes, self.domain = attributes, domain

    def get(self, key, default=None):
        return self.attributes.get(key, default)


class Graph:
    """A whole file. ``weights`` are its initializers and constants, ``types`` their names of dtype in the file,
    ``inputs`` {name: (dtype, shape with None for open sizes)} without the initializers."""

    def __init__(self, path):
        self.path, self.opset, self.producer, self.nodes = path, None, "", []
        self.weights, self.types, self.inputs, self.outputs, self.inner = {}, {}, {}, [], []

    @property
    def every_node(self):
        """Also those of functions that the file defines itself."""
        return self.nodes + self.inner


# ------------------------------------------------------------------------------------------------------ messages


def read(path):
    """The file as a Graph."""
    if os.path.isdir(path):
        raise FileError("%s is a folder; name the .onnx file" % path)
    if not os.path.isfile(path):
        raise FileError("there is no file %s" % path)
    size = os.path.getsize(path)
    if size > LARGEST:
        raise FileError(
            "%s has %d bytes, and a protobuf message holds at most %d: no runtime loads it; save it with its weights "
            "as external data" % (os.path.basename(path), size, LARGEST)
        )
    with open(path, "rb") as handle:
        data = memoryview(handle.read())
    name = os.path.basename(path)
    if not data:
        raise FileError("%s is empty" % name)
    try:
        return read_model(Graph(path), data, name)
    except (struct.error, ValueError, OverflowError, TypeError) as error:
        raise FileError("%s is damaged, or no ONNX file: %s" % (name, error))


def read_model(graph, data, name):
    body, opsets = None, {}
    for number, value in fields(data, name):
        if number == 2:
            graph.producer = text(value)
        elif number == 7:
            body = value
        elif number == 8:
            held = dict(fields(value, name))
            opsets[text(held.get(1, b""))] = signed(held.get(2, 0))
        elif number == 25:  # a function of the file's own
            graph.inner += [read_node(item, name) for key, item in fields(value, name) if key == 7]
    if body is None:
        raise FileError("%s holds no graph: it is no ONNX model" % name)
    graph.opset = next((opsets[domain] for domain in ("", "ai.onnx") if domain in opsets), None)
    if graph.opset is None:
        raise FileError("%s declares no opset of the ONNX operators" % name)
    inputs = []
    for number, value in fields(body, name):
        if number == 1:
            graph.nodes.append(read_node(value, name))
        elif number == 5:
            weight, array, kind = read_tensor(value, graph.path)
            graph.weights[weight], graph.types[weight] = array, kind
        elif number == 11:
            inputs.append(read_value(value, name))
        elif number == 12:
            graph.outputs.append(read_value(value, name)[0])
    if not graph.outputs:
        raise FileError("the graph of %s has no output" % name)
    graph.inputs = {key: (kind, shape) for key, kind, shape in inputs if key not in graph.weights}
    spread_constants(graph)
    return graph


def spread_constants(graph):
    """Constant nodes, and what only passes a constant on, count as weights."""
    for node in graph.nodes:
        if node.kind == "Constant" and node.outputs:
            value = next(iter(node.attributes.values()), None)
            array, kind = value if isinstance(value, tuple) else (np.array(value), "")
            graph.weights[node.outputs[0]], graph.types[node.outputs[0]] = array, kind or str(array.dtype)
        elif node.kind == "Identity" and node.inputs and node.inputs[0] in graph.weights:
            for held in (graph.weights, graph.types):
                held[node.outputs[0]] = held[node.inputs[0]]


def read_node(data, name):
    words = {3: "", 4: "", 7: ""}
    inputs, outputs, attributes = [], [], {}
    for number, value in fields(data, name):
        if number == 1:
            inputs.append(text(value))
        elif number == 2:
            outputs.append(text(value))
        elif number == 5:
            key, item = read_attribute(value, name)
            attributes[key] = item
        elif number in words:
            words[number] = text(value)
    return Node(words[4], words[3], inputs, outputs, attributes, words[7])


def read_attribute(data, name):
    """(name, number, text, list, or (array, dtype) of a tensor); None for what no operator here reads."""
    key, found, many = "", None, []
    for number, value in fields(data, name):
        if number == 1:
            key = text(value)
        elif number == 2:
            found = struct.unpack("<f", value)[0]
        elif number == 3:
            found = signed(value)
        elif number == 4:
            found = text(value)
        elif number == 5:
            found = read_tensor(value, None)[1:]
        elif number == 7:
            many += np.frombuffer(bytes(value), "<f4").tolist()
        elif number == 8:
            many += numbers(value)
    return key, many if many else found


def read_value(data, name):
    """(name, dtype, shape) of a graph input or output."""
    key, kind, shape = "", "", None
    for number, value in fields(data, name):
        if number == 1:
            key = text(value)
        elif number == 2:
            tensor = dict(fields(value, name)).get(1)
            for field, item in fields(tensor, name) if tensor is not None else ():
                if field == 1:
                    kind = TYPES.get(item, str(item))
                elif field == 2:
                    sizes = [dict(fields(one, name)) for number, one in fields(item, name) if number == 1]
                    shape = tuple(extent(size.get(1)) for size in sizes)
    return key, kind, shape


def extent(value):
    """A size, or None where it is open: named, left out, or 0 and -1 as older converters (paddle2onnx) write "any"."""
    return signed(value) if isinstance(value, int) and signed(value) > 0 else None


def read_tensor(data, path):
    """(name, array, dtype in the file); bfloat16 is widened to float32."""
    shape, kind, name, raw, outside, listed = [], None, "", None, {}, []
    for number, value in fields(data, "a tensor"):
        if number == 1:
            shape += numbers(value)
        elif number == 2:
            kind = TYPES.get(value, str(value))
        elif number in (4, 10):
            listed += np.frombuffer(bytes(value), "<f4" if number == 4 else "<f8").tolist()
        elif number in (5, 7):
            listed += numbers(value)
        elif number == 8:
            name = text(value)
        elif number == 9:
            raw = bytes(value)
        elif number == 13:
            pair = dict(fields(value, "a tensor"))
            outside[text(pair.get(1, b""))] = text(pair.get(2, b""))
    if kind not in TYPES.values():
        raise FileError("the weight %s is of type %s, which is no number that bncheck knows" % (name, kind))
    count = 1
    for size in shape:
        if size < 0:
            raise FileError("the weight %s has the shape %s" % (name, shape))
        count *= size
    width = 2 if kind == "bfloat16" else np.dtype(kind).itemsize
    if outside:
        raw = read_outside(path, outside, count * width, name)
    array = decode(raw, listed, kind)
    if array.size != count:
        raise FileError("the weight %s has %d values for the shape %s: the file is damaged" % (name, array.size, shape))
    return name, array.reshape(shape), kind


def decode(raw, listed, kind):
    if raw is not None:
        array = np.frombuffer(raw, dtype="<u2" if kind == "bfloat16" else np.dtype(kind).newbyteorder("<"))
    elif kind in ("float16", "bfloat16"):  # their bits, each in an int32
        array = np.array(listed, dtype=np.uint16)
        array = array if kind == "bfloat16" else array.view(np.float16)
    else:
        array = np.array(listed, dtype=kind)
    return (array.astype(np.uint32) << 16).view(np.float32) if kind == "bfloat16" else array


def read_outside(path, said, size, name):
    """Bytes of a tensor that lies in a file beside the model."""
    where = said.get("location", "")
    if path is None or os.path.basename(where) != where or where in ("", ".", ".."):
        raise FileError("the weight %s lies in %r, which is no file beside the model" % (name, where))
    full = os.path.join(os.path.dirname(path), where)
    if not os.path.isfile(full):
        raise FileError("the weight %s lies in the file %s, which is not there" % (name, where))
    # A download cache holds links to the files of one folder; any other link could lead to a file of its reader's.
    homes = (os.path.realpath(os.path.dirname(path)), os.path.dirname(os.path.realpath(path)))
    if os.path.dirname(os.path.realpath(full)) not in homes:
        raise FileError("the weight %s lies in %s, a link to another folder" % (name, where))
    offset = int(said.get("offset", 0))
    if not 0 <= offset <= os.path.getsize(full):
        raise FileError("the weight %s begins at byte %d of %s, which is not there" % (name, offset, where))
    with open(full, "rb") as handle:
        handle.seek(offset)
        found = handle.read(size)
    if len(found) != size:
        raise FileError("the weight %s needs %d bytes of %s, which has fewer: it is truncated" % (name, size, where))
    return found


# ------------------------------------------------------------------------------------------- BatchNormalization


class Norm:
    """A BatchNormalization node: ``layer`` is its name in a trace, ``training`` its mode in the file, ``held`` the
    arrays of the file by neutral word (None: computed in the graph; ``behind`` says of what)."""

    def __init__(self, layer, node, graph):
        self.layer, self.node = layer, node
        self.outputs = len([name for name in node.outputs if name])
        self.training = bool(node.get("training_mode", 0)) if graph.opset >= 14 else self.outputs > 1
        # The file says float32; 0.9 stands for the float32 next to it, as in the operator's schema.
        self.momentum = stored(layer, node, "momentum", 0.9)
        self.eps = stored(layer, node, "epsilon", 1e-5)
        self.held = {what: graph.weights.get(name) for what, name in zip(ROLES, node.inputs[1:5])}


def stored(layer, node, key, usual):
    value = node.get(key, usual)
    if not isinstance(value, (int, float)):
        raise FileError("the attribute %s of %s is no number" % (key, layer))
    return float(np.float32(value))


def batch_norms(graph):
    """The Norms of a graph in order, with names that a trace can carry, each once; none where they were folded into
    their neighbours, or removed."""
    found, used = [], {}
    for node in graph.nodes:
        if node.kind == "BatchNormalization" and node.domain in ("", "ai.onnx"):
            given = len([name for name in node.inputs if name])
            if len(node.inputs) != 5 or given != 5:
                raise FileError("a BatchNormalization node has %d inputs; it takes 5" % given)
            if not any(node.outputs[:1]):
                raise FileError("a BatchNormalization node has no output")
            word = re.sub(r"[^A-Za-z0-9_.-]+", ".", node.name or node.outputs[0]).strip(".-") or "batch_norm"
            layer, count = word, used.get(word, 1)
            while layer in used:  # counting on: an exporter can give thousands of nodes one name
                count += 1
                layer = "%s_%d" % (word, count)
            used[word] = count
            used.setdefault(layer, 1)
            found.append(Norm(layer, node, graph))
    return found


def describe(graph):
    """What the file declares: opset, kinds of node, mode and numbers of BatchNormalization and Dropout nodes."""
    counts = {}
    for node in graph.every_node:
        counts[node.kind] = counts.get(node.kind, 0) + 1
    nodes = [node for node in graph.every_node if node.kind == "BatchNormalization"]
    norms = [Norm(node.name or next(iter(node.outputs), ""), node, graph) for node in nodes]
    fed, used = from_the_batch(graph), to_an_output(graph)
    dropouts = [node for node in graph.every_node if node.kind == "Dropout"]
    return {
        "opset": graph.opset,
        "dtype": next((kind for kind, _ in graph.inputs.values()), ""),
        "producer": graph.producer,
        "nodes": counts,
        "batch_norms": [
            {
                "name": n.layer,
                "training": n.training,
                "outputs": n.outputs,
                "momentum": n.momentum,
                "eps": n.eps,
                "fed": fed(n.node),
                "used": used(n.node),
            }
            for n in norms
        ],
        "dropouts": [dict(dropout(graph, node), used=used(node)) for node in dropouts],
    }


# What has a graph of its own in an attribute, which may read any name of the graph around it.
NESTING = ("If", "Loop", "Scan")
# Whose outputs are not the same each time, or may not be.
RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
          "Dropout", "BatchNormalization")  # fmt: skip


def behind(graph, name, weights):
    """Places of the nodes that compute a value from these weights alone, in order; none for one of them. None where
    something else takes part in it: the batch, chance, or what cannot be looked into."""
    makers = {made: place for place, node in enumerate(graph.nodes) for made in node.outputs if made}
    wanted, found = [name], set()
    while wanted:
        each = wanted.pop()
        if each in weights or makers.get(each) in found:
            continue
        node = graph.nodes[makers[each]] if each in makers else None
        if node is None or node.domain not in ("", "ai.onnx") or node.kind in NESTING or node.kind in RANDOM:
            return None
        found.add(makers[each])
        wanted += [given for given in node.inputs if given]
    return sorted(found)


def from_the_batch(graph):
    """Whether the first input of a node holds values of the batch: one computed from weights, or from the batch's size
    alone, is the same for every batch. True where that cannot be told (functions, graphs inside the graph)."""
    reached = set(graph.inputs)
    for node in graph.nodes:  # ONNX requires that they are sorted
        inside = node.kind in NESTING or node.domain not in ("", "ai.onnx")
        if inside or (node.kind not in ("Shape", "Size") and reached.intersection(node.inputs)):
            reached.update(node.outputs)
    inner = {id(node) for node in graph.inner}
    return lambda node: id(node) in inner or bool(node.inputs) and node.inputs[0] in reached


def to_an_output(graph):
    """Whether the first output of a node has a part in an output of the graph; True where that cannot be told."""
    wanted = set(graph.outputs)
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
    nested, inner = any(node.kind in NESTING for node in graph.nodes), {id(node) for node in graph.inner}
    return lambda node: nested or id(node) in inner or bool(node.outputs) and node.outputs[0] in wanted


def dropout(graph, node):
    """Since opset 12 the third input says the mode (one computed in the graph cannot be read off it); before 7
    is_test does; in between a Dropout node drops nothing. Nor does one whose ratio is 0."""
    mode, ratio = (node.inputs[place] if len(node.inputs) > place else "" for place in (2, 1))
    if graph.opset < 7:
        training, share = not node.get("is_test", 0), node.get("ratio", 0.5)
    elif not mode or graph.opset < 12:
        training, share = False, 0.0
    else:
        known = graph.weights.get(mode)
        training = bool(known.any()) if known is not None else "computed"
        share = graph.weights.get(ratio, 0.5) if ratio else 0.5
    return {"name": node.name, "training": training, "drops": bool(training is True and np.any(np.asarray(share) != 0))}


def feed(graph, x):
    """{input: x in the file's dtype}; FileError that says what to set when x does not fit."""
    if len(graph.inputs) != 1:
        names = ", ".join(graph.inputs) or "none"
        raise NotImplementedError("the file takes %d inputs (%s); bncheck feeds one" % (len(graph.inputs), names))
    ((name, (kind, shape)),) = graph.inputs.items()
    if kind not in FLOATS:
        raise NotImplementedError(
            "the file's input %s is of type %s; bncheck feeds floating-point numbers" % (name, kind)
        )
    if kind == "bfloat16":
        raise NotImplementedError("NumPy arrays cannot carry bfloat16 into an ONNX file")
    if shape is not None:
        fits = len(shape) == x.ndim and all(want in (None, size) for want, size in zip(shape, x.shape))
        if not fits:
            said = "[%s]" % ", ".join("any" if size is None else str(size) for size in shape)
            raise FileError(
                "the file's input %s has the shape %s, the scenario gives %s: say --set input.shape=%s"
                % (name, said, list(x.shape), fitting(graph, list(x.shape)))
            )
    return {name: x.astype(kind)}


def fitting(graph, usual):
    """A shape that the file's one input takes: its own sizes, and ``usual`` where they are open. None where the file
    has no single input, or does not say how many axes it has."""
    if len(graph.inputs) != 1:
        return None
    ((name, (_, shape)),) = graph.inputs.items()
    rank, channels = first_layer(graph, name)
    shape = (None,) * (rank or len(usual)) if shape is None else shape
    known = list(usual) if len(usual) == len(shape) else [2] + [8] * (len(shape) - 1)
    if channels and rank in (None, len(shape)):
        known[1:2] = [channels]
    return [known[place] if size is None else size for place, size in enumerate(shape)]


ELEMENTWISE = ("Identity", "Cast", "Relu", "Clip", "Add", "Sub", "Mul", "Div", "Dropout")


def first_layer(graph, name):
    """(number of axes, or None; channels) that the first layer with weights takes of an input; None where none says."""
    same = {name}  # the input, and what has its shape
    for node in graph.nodes:
        if same.isdisjoint(node.inputs[:1]):
            continue
        if node.kind in ELEMENTWISE:
            same.update(node.outputs[:1])
        weight = graph.weights.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if weight is None:
            continue
        if node.kind == "Conv" and weight.ndim > 2:
            return weight.ndim, int(weight.shape[1] * node.get("group", 1))
        if node.kind == "BatchNormalization":
            return None, int(weight.size)
        if node.kind in ("Gemm", "MatMul") and weight.ndim == 2:
            return 2, int(weight.shape[1 if node.get("transB", 0) else 0])
    return None, None
