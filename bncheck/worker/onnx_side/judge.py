"""Which play of an ONNX file is right where two of them differ, and which graph optimiser makes it wrong.

Loaded by backends/onnxruntime.py by path. Python 3.7 syntax. The judge is the float64 oracle on the very same input
and statistics. Where it lacks an operator of the file, each BatchNormalization node is judged alone, from the input
that it measurably got. All of it goes into the notes of the forward; what it amounts to is for the rules to say.
"""

import os
import re
import tempfile
import time

import numpy as np

# Seconds and sessions that looking for the optimiser may take.
LONGEST, MOST = 15.0, 60
# One optimiser stands for many rewrites of a single node; these are their names.
RULE_BASED = re.compile(r"Level\d_RuleBasedTransformer")
REWRITES = (
    "EliminateIdentity", "EliminateSlice", "UnsqueezeElimination", "EliminateDropout", "ExpandElimination",
    "CastElimination", "PreShapeNodeElimination", "NoopElimination", "DivMulFusion", "FuseReluClip", "GemmSumFusion",
    "GemmTransposeFusion", "NotWhereFusion", "ConvAddFusion", "ConvMulFusion", "ConvBNFusion", "PadFusion",
    "Pad_Fusion", "MatmulBNFusion", "MatMul_BatchNormalization_Fusion", "LabelEncoderFusion", "ClipQuantFusion",
    "ReluQuantFusion", "CastChainElimination",
)  # fmt: skip
UNIT = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}


class Compared:
    """What plays of a file are compared in: its ``outputs``, the first of which is its result; and ``statistics``, the
    names of new running statistics with (layer, what) and the layer's eps."""

    def __init__(self, outputs, statistics, eps):
        self.outputs, self.statistics, self.eps = outputs, statistics, eps
        self.named = {words: name for name, words in statistics.items()}

    def worth(self, name, play):
        """What a difference of one running statistic is measured in, per channel: a mean beside the standard deviation
        that divides it (a mean of 0 is not worth nothing), a variance beside itself; eps is in both."""
        layer, what = self.statistics[name]
        value = np.abs(np.asarray(play[name], np.float64))
        if what == "running_var":
            return value + self.eps[layer]
        var = np.asarray(play.get(self.named.get((layer, "running_var")), 0.0), np.float64)
        return value + np.sqrt(np.maximum(var, 0.0) + self.eps[layer])


def apart(compared, one, two):
    """(outputs, statistics): how far two plays are apart at most, over what both have; ``two`` is what it is measured
    against. Statistics in units of what they are worth."""
    found, first = [0.0, 0.0], compared.outputs[0]
    for name in [name for name in one if name in two]:
        a, b = np.asarray(one[name], np.float64), np.asarray(two[name], np.float64)
        if name in compared.statistics:
            found[1] = larger(found[1], largest_gap(a, b, compared.worth(name, two)))
        elif name == first:
            found[0] = larger(found[0], largest_gap(a, b))
        elif name in compared.outputs:  # another head, in units of the first one's size
            found[0] = larger(found[0], largest_gap(a, b, (0.1 + size_of(b)) / (0.1 + size_of(two.get(first, b)))))
    return found


def largest_gap(a, b, unit=1.0):
    """Largest |a − b|; NaN and Inf in the same place on both sides are no difference, on one side an infinite one."""
    if a.shape != b.shape:
        return "inf"
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    gap = np.where(same, 0.0, np.abs(a - b) / np.maximum(unit, 1e-30))
    if not np.isfinite(gap).all():
        return "inf"
    return float(gap.max()) if gap.size else 0.0


def size_of(array):
    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max()) if finite.size else 0.0


def larger(a, b):
    return "inf" if "inf" in (a, b) else max(a, b)


def value(gap):
    return float("inf") if gap == "inf" else gap


# --------------------------------------------------------------------------------------------- who is right


def truth(model, mode, x):
    """{name: float64 array} of outputs and new statistics, from the oracle; NotImplementedError where it cannot."""
    if model.lacking:
        raise NotImplementedError(model.lacking)
    oracle = model.oracle.playing(model.files, model.graph)
    for key, array in model.held.items():
        if array is not None:
            oracle.held[key] = model.oracle.wide(array)
    oracle.forward(x, mode)
    found = dict(oracle.outputs)
    found.update((name, oracle.held[key]) for name, key in model.statistics(mode).items() if key in oracle.held)
    return found


def hold(model, notes, mode, x, plays):
    """Note how far each play lies from the truth; ``plays`` has the recorded one first. Beside it, how far the recorded
    one moves when every number of the input moves by one unit of its last place: no honest play is nearer than that."""
    compared = model.compared(mode)
    moved = model.run(mode, model.files.feed(model.graph, nudged(x)), False, True, False)
    notes["moved"], notes["moved_statistics"] = apart(compared, moved, plays["recorded"])
    try:
        right = truth(model, mode, x)
    except Exception as error:  # the reference's own cell says the same of itself
        notes["no_oracle"] = "%s" % error if isinstance(error, NotImplementedError) else repr(error)[:300]
        return
    notes["off"] = {}
    for name, play in plays.items():
        notes["off"][name], notes["off"][name + "_statistics"] = apart(compared, play, right)


def nudged(x):
    signs = np.random.RandomState(0).randint(0, 2, x.shape) * 2 - 1
    return (x * (1 + signs * np.finfo(x.dtype).eps)).astype(x.dtype)


# ------------------------------------------------------------------------------------- one node on its own


def nodes(model, mode, feeds, found):
    """{layer: times its rounding bound} of every BatchNormalization node that was seen, from its own input: one that it
    was fed, one that another node computed, or a weight."""
    ratios, known = {}, dict(model.graph.weights, **feeds)
    known.update(found)
    for layer, norm in model.norms.items():
        names, held = norm.node.inputs, []
        for what, name in zip(model.files.ROLES, names[1:5]):
            array = model.held[layer, what]
            held.append(known.get(name) if array is None else array)
        x, y = known.get(names[0]), found.get(norm.node.outputs[0])
        if x is None or y is None or any(array is None for array in held):
            continue
        ratios[layer] = node(norm, model.training(norm, mode), x, y, [np.asarray(each, np.float64) for each in held])
    return ratios


def node(norm, training, x, y, held):
    """How far y lies from the opset's text, in units of what honest arithmetic of its type may be off."""
    unit, (gamma, beta, mean, var) = UNIT.get(str(y.dtype), UNIT["float64"]), held
    x, axes = np.asarray(x, np.float64), (0,) + tuple(range(2, x.ndim))
    terms = 0.0
    if training:
        count = x.size // max(x.shape[1], 1)
        mean, var, terms = x.mean(axis=axes), x.var(axis=axes), min(count, 8.0 * count**0.5)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = gamma / np.sqrt(var + norm.eps)
    right = (x - mean.reshape(shape)) * scale.reshape(shape) + beta.reshape(shape)
    largest = np.abs(x).max(axis=axes) if x.size else np.zeros_like(mean)
    # y = (x − m)·s + β: m and x carry u·|x| each, a batch's mean its sum's error, 1/√var that of the squares.
    bound = 4 * unit * (8 + terms) * ((largest + np.abs(mean)) * np.abs(scale) + np.abs(beta))
    return largest_gap(np.asarray(y, np.float64), right, bound.reshape(shape))


# ------------------------------------------------------------------------------------------ which optimiser


def find_optimiser(notes, candidates, right):
    """Switch off one optimiser at a time, and note those without which ``right(names)``. Where none is enough alone, as
    few of them as are enough together."""
    began, tried = time.perf_counter(), 0
    for name in candidates:
        if tried >= MOST or time.perf_counter() - began > LONGEST:
            break
        tried += 1
        if right((name,)):
            notes.update(optimisers=[name], optimisers_tried=tried)
            return
    enough = candidates if candidates and right(tuple(candidates)) else []
    for name in enough:
        if time.perf_counter() - began > 2 * LONGEST:
            break
        rest = [other for other in enough if other != name]
        enough = rest if right(tuple(rest)) else enough
    notes.update(optimisers=enough, optimisers_tried=tried)


def at_work(make):
    """Names of the optimisers that change a graph, as onnxruntime itself says when ``make(severity)`` makes a session:
    at severity 0 it tells all."""
    with tempfile.TemporaryFile() as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            make(0)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        log.seek(0)
        said = log.read().decode("utf-8", "replace")
    found = []
    for name in dict.fromkeys(re.findall(r"GraphTransformer (\w+) modified: 1\b", said)):
        found += [name] + (list(REWRITES) if RULE_BASED.match(name) else [])
    return found
