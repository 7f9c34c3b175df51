"""Layers that one file alone has, looked for in the convolutions of the other: reads weights, a layer at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bncheck.checkpoints.normalisers import plain_name
from bncheck.checkpoints.recognise import Checkpoint
from bncheck.checkpoints.tensor import Tensor
from bncheck.diagnosis.held.folding import USUAL_EPS, Fold, Range, ahead_of, along_inputs, eps_within, fold_of
from bncheck.diagnosis.held.likeness import SPACING
from bncheck.diagnosis.held.matching import Matching
from bncheck.diagnosis.held.outputs import percent
from bncheck.diagnosis.held.reading import Reading, Sides, finding_of
from bncheck.diagnosis.rules.layer_names import listed
from bncheck.finding import Finding, Kind
from bncheck.life import Held
from bncheck.report.plain_text import plural
from bncheck.run_folder.answer import Row
from bncheck.trace import Array

# Numbers of a weight that is looked at; and weights before a layer that may be its own.
LARGEST = 64 * 2**20
NEAR = 4
SHORT = 1e-4  # a rounding that is said
SURE = 0.1  # an eps whose weights leave it no wider open than this is named
MOST_VECTORS = 200  # constants of one size that are tried as factor and summand
# How a format's weights go with the axis of output channels first.
AXES = {"keras": -1, "flax": -1}


@dataclass(frozen=True)
class FoldedLayer:
    """A layer of one side whose convolution is found on the other. ``keys`` are the names of the two weights."""

    layer: Held
    fold: Fold
    keys: tuple[str, str]
    in_b: bool  # the side that lacks the layer


@dataclass(frozen=True)
class Folded:
    """``left_a`` and ``left_b`` are layers of one side alone that were found in no convolution of the other."""

    layers: tuple[FoldedLayer, ...] = ()
    left_a: tuple[Held, ...] = ()
    left_b: tuple[Held, ...] = ()

    def row(self, found: FoldedLayer, width: int) -> Row:
        words = {
            "folded": "folded",
            "start": "folds a new layer",
            "bare": "left out",
            "parameters": "statistics left out",
            "half": "incomplete",
            "ahead": "folded",
            "ahead, other bias": "other bias",
            "weights": "other bias",
            "gain": "other factor",
        }
        size = 0 if found.layer.running_mean is None else found.layer.running_mean.size
        at = "" if found.fold.word in ("parameters", "half") else f": {found.keys[1]}"
        cells = (str(size), *("",) * (width - 2), f"{words[found.fold.word]}{at}")
        return Row(layer=found.layer.layer, cells=cells, mark="agrees" if found.fold.word in RIGHT else "defect")

    def findings(self, sides: Sides) -> Iterator[Finding]:
        for in_b in (True, False):
            mine, theirs = (sides.b, sides.a) if in_b else (sides.a, sides.b)
            chosen = [each for each in self.layers if each.in_b == in_b]
            for reading in readings(chosen, mine, theirs):
                yield finding_of(sides, reading)


RIGHT = ("folded", "ahead")
SAID: dict[str, tuple[str, Kind, str, str]] = {
    "start": (
        "stale-state",
        "defect",
        "{mine} has the statistics of a new layer folded in, mean 0 and variance 1, instead of those that {theirs} "
        "holds, in {layers}.",
        "load the weights, then model.eval(), then export",
    ),
    "bare": (
        "state-mismatch",
        "defect",
        "{mine} leaves BatchNorm out in {layers}: the convolutions before it are those of {theirs}, unfolded.",
        "fold or keep BatchNorm: export in eval mode, or torch.nn.utils.fusion.fuse_conv_bn_eval",
    ),
    "parameters": (
        "state-mismatch",
        "defect",
        "{mine} holds gamma and beta of {layers}, and no running statistics, which {theirs} holds: a model that loads "
        "it keeps those that it has.",
        "save buffers as well: model.state_dict(), not parameters() or named_parameters()",
    ),
    "ahead, other bias": (
        "folding",
        "defect",
        "{mine} folds {layers} into the convolution behind, with another bias than what {theirs} holds makes.",
        "add to that bias what the shift gives: the sum of weight·(beta − mean·gamma/sqrt(var + eps))",
    ),
    "half": (
        "state-mismatch",
        "defect",
        "{mine} holds no whole BatchNorm layer in {layers}, as {theirs} does: arrays of it are missing, or are of "
        "another length or kind than the rest.",
        "bncheck check of that file says which",
    ),
    "weights": (
        "folding",
        "defect",
        "{mine} folds {layers} with another bias than what {theirs} holds makes.",
        "fold the bias too: (bias − mean)·gamma/sqrt(var + eps) + beta",
    ),
    "gain": (
        "folding",
        "defect",
        "{mine} folds {layers} with other weights than what {theirs} holds makes.",
        "multiply each output channel's weights by gamma/sqrt(var + eps)",
    ),
}


def of_bias(found: Sequence[FoldedLayer]) -> str:
    """What was forgotten in all of these biases, where it is one thing."""
    lacks = {each.fold.lacks for each in found}
    said = lacks.pop() if len(lacks) == 1 else ""
    return f" {said[0].upper()}{said[1:]}." if said else ""


def readings(chosen: Sequence[FoldedLayer], mine: str, theirs: str) -> Iterator[Reading]:
    for word, (cause, kind, title, advice) in SAID.items():
        found = [each for each in chosen if each.fold.word == word]
        if found:
            names = [each.layer.layer for each in found]
            yield Reading(
                cause=cause,
                kind=kind,
                title=title.format(mine=mine, theirs=theirs, layers=listed(names)) + of_bias(found),
                advice=advice,
                places=tuple((name, "running_var") for name in names),
                departs=mine,
            )
    folds = [each for each in chosen if each.fold.word in RIGHT]
    yield from right_ones([each for each in folds if has_own_eps(each)], mine, theirs)
    made = [each for each in chosen if each.fold.word in (*RIGHT, "weights", "ahead, other bias")]
    yield from other_eps([each for each in made if not has_own_eps(each)], mine, theirs)


def right_ones(fits: Sequence[FoldedLayer], mine: str, theirs: str) -> Iterator[Reading]:
    """Layers that were folded with the eps that they have: no difference, as far as the files tell."""
    ahead = [each for each in fits if each.fold.word == "ahead"]
    fits = [each for each in fits if each.fold.word != "ahead"]
    if ahead:
        names = [each.layer.layer for each in ahead]
        yield Reading(
            cause="folding",
            kind="rounding",
            title=f"{mine} folds {listed(names)} into the convolution behind, up to rounding{within(ahead)}: right "
            "only where that one does not pad.",
            advice="of files, compare the models, which pad: bncheck diff MODEL.py:build OTHER.py:build",
            places=tuple((name, "running_var") for name in names),
        )
    good = [each for each in fits if not each.fold.second]
    if good:
        names = [each.layer.layer for each in good]
        into = "a convolution" if len(good) == 1 else "convolutions"
        yield Reading(
            cause="folding",
            kind="rounding",
            title=f"{mine} is {theirs} with {plural(len(good), 'BatchNorm layer')} folded into {into}, "
            f"equal up to rounding{within(good)} ({listed(names)}).",
            advice="",
            places=tuple((name, "running_var") for name in names),
            evidence={"eps": good[0].fold.eps},
        )
    open_ones = [each for each in fits if each.fold.second]
    if open_ones:
        names = [each.layer.layer for each in open_ones]
        yield Reading(
            cause="folding",
            kind="rounding",
            title=f"{mine} folds {listed(names)} along the second axis of the weight: right for a transposed "
            f"convolution, wrong for a plain one, and the files do not say which it is.",
            advice="compare the models, which say it: bncheck diff MODEL.py:build OTHER.py:build",
            places=tuple((name, "running_var") for name in names),
        )


def within(folds: Sequence[FoldedLayer]) -> str:
    """How much that is, where numbers are so short that it is not nothing."""
    most = max(each.fold.within for each in folds)
    return f", which is up to {percent(most)} in such short numbers" if most > SHORT else ""


def has_own_eps(each: FoldedLayer) -> bool:
    """Whether the layer's eps, or PyTorch's where it says none, is one that its fold can have."""
    low, high = each.fold.fits
    return low <= (1e-5 if each.layer.eps is None else each.layer.eps) <= high


def other_eps(found: Sequence[FoldedLayer], mine: str, theirs: str) -> Iterator[Reading]:
    """Layers that were folded with another eps than they have, or than their framework's layers have by default."""
    groups: dict[float | None, list[FoldedLayer]] = {}
    for each in found:
        groups.setdefault(each.layer.eps, []).append(each)
    for own, group in groups.items():
        names = [each.layer.layer for each in group]
        against = (
            f"{theirs} has {own:g}"
            if own is not None
            else f"{theirs} does not say its eps; PyTorch's default is 1e-5, that of Keras 1e-3"
        )
        fits = max(each.fold.fits[0] for each in group), min(each.fold.fits[1] for each in group)
        how = with_eps(fits, [each.fold.eps for each in group])
        yield Reading(
            cause="eps",
            kind="hazard",
            title=f"{mine} was folded {how} in {listed(names)}; {against}.",
            advice="fold with the eps that the layer was trained with",
            places=tuple((name, "eps") for name in names),
            evidence={"smallest eps that fits": fits[0], "largest eps that fits": fits[1]},
        )


def with_eps(fits: Range, each: Sequence[float]) -> str:
    """The eps that makes the weights of all layers, or what can be said where they do not tell it to a tenth."""
    low, high = fits
    if low > high:
        return f"with an eps of its own in each layer ({min(each):.3g} to {max(each):.3g})"
    if not low:
        return f"without eps, or with one below {high:.1g},"
    usual = eps_within(fits, None)
    if len(usual) == 1 and high - low <= SURE * usual[0]:
        return f"with eps {usual[0]:.3g}"
    likely = f" ({usual[0]:g} is usual)" if len(usual) == 1 and usual[0] in USUAL_EPS else ""
    return f"with an eps of {low:.2g} to {high:.2g}{likely}"


# ------------------------------------------------------------------------------------------------------- searching


def folded_layers(one: Checkpoint, two: Checkpoint, matching: Matching) -> Folded:
    """Every layer of one side alone, with the convolution of the other that it went into."""
    in_b, left_a = search(one, two, matching.only_a, True)
    in_a, left_b = search(two, one, matching.only_b, False)
    return Folded(layers=(*in_b, *in_a), left_a=tuple(left_a), left_b=tuple(left_b))


@dataclass
class Weights:
    """The weights of more than one axis of a state, by name in the file's order, read once each."""

    checkpoint: Checkpoint
    read: dict[str, NDArray[Any]] = field(default_factory=dict)

    def names(self) -> list[str]:
        others = self.checkpoint.holding.others
        return [key for key, tensor in self.checkpoint.tensors.items() if key in others and is_weight(tensor)]

    def rows(self, key: str, channels: int) -> list[NDArray[Any]]:
        """(C, K) with each axis of that length as the one of output channels: the one that is known to be
        that, else the first, the last, the second."""
        if key not in self.read:
            self.read[key] = self.checkpoint.tensors[key].read()
            while len(self.read) > 8:
                del self.read[next(iter(self.read))]
        array = self.read[key]
        known = self.checkpoint.axes.get(key)
        if known is not None and array.ndim > known and array.shape[known] == channels:
            return [moved(array, known)]
        last = AXES.get(self.checkpoint.holding.framework, 0)
        order = [last % array.ndim, *(axis for axis in (0, 1, array.ndim - 1) if axis != last % array.ndim)]
        axes = [axis for axis in dict.fromkeys(order) if array.shape[axis] == channels]
        grouped = [] if last else in_groups(array, channels)
        if last and array.ndim == 4 and array.shape[2:] == (channels, 1):  # depthwise: (H, W, C, 1)
            return [array.transpose(2, 3, 0, 1).reshape(channels, -1)]
        return [*(moved(array, axis) for axis in axes), *grouped]

    def crossed(self, key: str, channels: int, known: int | None) -> NDArray[Any] | None:
        """(C, K) along the other of two axes of that length, where one of them is known to be that of outputs."""
        array = self.read.get(key)
        if known not in (0, 1) or array is None or array.shape[:2] != (channels, channels):
            return None
        return moved(array, 1 - known)

    def vectors(self, count: int) -> dict[str, NDArray[Any]]:
        """Constants with one number per channel, whatever axes of one stand around them."""
        tensors, others = self.checkpoint.tensors, self.checkpoint.holding.others
        fitting = [key for key in others if key in tensors and tensors[key].size == count]
        fitting = [
            key for key in fitting if tensors[key].dtype.startswith("float") and max(tensors[key].shape) == count
        ]
        return {key: tensors[key].read().reshape(-1) for key in fitting[:MOST_VECTORS]}

    def unit(self, key: str) -> float:
        """The spacing of a weight's own type near 1, where it is read as another: that of bfloat16; 0 otherwise."""
        return SPACING["bfloat16"] if self.checkpoint.tensors[key].dtype == "bfloat16" else 0.0

    def bias_of(self, key: str, channels: int) -> str:
        """The bias beside a weight: what has its name with "bias" in the place of the last word, or follows it; ""
        where there is none."""
        tensors = self.checkpoint.tensors
        for word, instead in (("weight", "bias"), ("kernel", "bias"), (".W", ".B"), ("_W", "_B"), ("w_0", "b_0")):
            if word in key:
                head, _, tail = key.rpartition(word)
                found = tensors.get(f"{head}{instead}{tail}")
                if found is not None and found.shape == (channels,):
                    return f"{head}{instead}{tail}"
        beside = self.checkpoint.beside.get(key, "")
        return beside if beside in tensors and tensors[beside].shape == (channels,) else ""

    def bias(self, key: str, channels: int) -> NDArray[Any] | None:
        name = self.bias_of(key, channels)
        return self.checkpoint.tensors[name].read() if name else None


def is_weight(tensor: Tensor) -> bool:
    return 2 <= len(tensor.shape) <= 5 and 0 < tensor.size <= LARGEST and tensor.dtype.startswith(("float", "bfloat"))


def moved(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """(C, K): the axis of output channels first; of images behind it the order of a kernel in PyTorch."""
    if axis == array.ndim - 1 and array.ndim > 2:  # (H, W, I, O) as Keras and Flax have it
        return array.transpose(-1, -2, *range(array.ndim - 2)).reshape(array.shape[-1], -1)
    if axis == 1 and array.ndim > 2:  # a transposed convolution
        return array.swapaxes(0, 1).reshape(array.shape[1], -1)
    return (array.T if axis == 1 else array).reshape(array.shape[axis], -1)


def in_groups(array: NDArray[Any], channels: int) -> list[NDArray[Any]]:
    """[(C, K)] of a transposed convolution in groups, (I, C / groups, …): each group of inputs has outputs of its own;
    [] where its shape is none of that."""
    if array.ndim < 3 or array.shape[1] >= channels or channels % array.shape[1]:
        return []
    groups = channels // array.shape[1]
    if array.shape[0] % groups or (array.shape[0], array.shape[1]) == (channels, 1):
        return []
    apart = array.reshape(groups, array.shape[0] // groups, *array.shape[1:])
    return [apart.swapaxes(1, 2).reshape(channels, -1)]


def search(
    one: Checkpoint, two: Checkpoint, layers: Sequence[Held], in_b: bool
) -> tuple[list[FoldedLayer], list[Held]]:
    found: list[FoldedLayer] = []
    left: list[Held] = []
    mine, theirs = Weights(one), Weights(two)
    used: set[str] = set()
    for layer in layers:
        hit = likeliest(hits(layer, mine, theirs, used))
        if hit is None or hit[2].word == "bare":  # behind an activation it becomes a product and a sum
            hit = as_product(layer, theirs, used) or hit
        if hit is None:
            left.append(layer)
            continue
        used.add(hit[1])
        found.append(FoldedLayer(layer=layer, fold=hit[2], keys=hit[:2], in_b=in_b))
    return found, left


Hit = tuple[str, str, Fold]


def likeliest(found: Iterator[Hit]) -> Hit | None:
    """A whole fold as soon as there is one; else the best of what there is."""
    kept: list[Hit] = []
    for hit in found:
        if hit[2].word == "folded":
            return hit
        kept.append(hit)
    order = ("start", "ahead", "ahead, other bias", "weights", "gain", "bare", "parameters", "half")
    return min(kept, key=lambda hit: order.index(hit[2].word), default=None)


def as_product(layer: Held, theirs: Weights, used: set[str]) -> Hit | None:
    """The two constants that gamma/sqrt(var + eps) and beta − mean·gamma/sqrt(var + eps) became."""
    count = 0 if layer.running_mean is None else int(layer.running_mean.size)
    vectors = theirs.vectors(count) if count > 1 else {}
    one = np.ones((count, 1), np.float32)
    for key, gain in vectors.items():
        if key in used or fold_of(one, None, layer, gain[:, None], None) is None:
            continue
        for other, shift in (*vectors.items(), (key, None)):  # a summand of 0 is left out
            fold = fold_of(one, None, layer, gain[:, None], shift)
            if fold is not None and fold.word in ("folded", "start"):
                return other, key, fold
    return None


def hits(layer: Held, mine: Weights, theirs: Weights, used: set[str]) -> Iterator[Hit]:
    """(own weight, the other's weight, what it is), likeliest first. Only the weight just before a layer, as it goes
    through the network, says by being the same that the layer was left out."""
    count = 0 if layer.running_mean is None else int(layer.running_mean.size)
    nearest = True
    for key in before(layer, mine):
        for place, own in enumerate(mine.rows(key, count)):
            for other_key in candidates(key, own.shape, theirs, used):
                biases = mine.bias(key, count), theirs.bias(other_key, count)
                unit = max(mine.unit(key), theirs.unit(other_key))
                known = mine.checkpoint.axes.get(key, theirs.checkpoint.axes.get(other_key))
                elsewhere = known == 0 and mine.read[key].shape[0] != count  # the layer is not behind it
                for number, other in enumerate(theirs.rows(other_key, count)):
                    if own.shape == other.shape:
                        fold = fold_of(own, biases[0], layer, other, biases[1], unit)
                        if fold is None or (fold.word == "bare" and not (nearest and not place)):
                            continue
                        if elsewhere and fold.word != "bare":
                            continue
                        word = what_is_kept(layer, theirs.checkpoint) if fold.word == "bare" else ""
                        yield key, other_key, replace(fold, second=bool(place and number), word=word or fold.word)
                crossed = mine.crossed(key, count, known), theirs.crossed(other_key, count, known)
                fold = across(layer, crossed, biases, unit)
                if fold is not None and not place:
                    yield key, other_key, fold
                fold = in_front(layer, (mine, theirs), (key, other_key), unit) if known in (None, 0) else None
                if fold is not None:
                    yield key, other_key, fold
            nearest = False


def across(
    layer: Held, weights: tuple[Array | None, Array | None], biases: tuple[Array | None, Array | None], unit: float
) -> Fold | None:
    """The factor along the other axis than the one that is known to be that of output channels."""
    own, other = weights
    if own is None or other is None or own.shape != other.shape:
        return None
    return along_inputs(fold_of(own, biases[0], layer, other, biases[1], unit))


def in_front(layer: Held, sides: tuple[Weights, Weights], keys: tuple[str, str], unit: float) -> Fold | None:
    """The layer as folded into the convolution behind it: (O, C, …), whose bias has another number per output."""
    own, other = (side.read.get(key) for side, key in zip(sides, keys, strict=True))
    count = 0 if layer.running_mean is None else layer.running_mean.size
    if own is None or other is None or own.shape != other.shape or own.shape[1] != count:
        return None
    if any(AXES.get(side.checkpoint.holding.framework, 0) for side in sides):
        return None
    biases = [side.bias(key, own.shape[0]) for side, key in zip(sides, keys, strict=True)]
    return ahead_of(own, biases[0], layer, other, biases[1], unit)


def what_is_kept(layer: Held, checkpoint: Checkpoint) -> str:
    """Of a layer that a file does not hold as one: "half" where statistics of it are there all the same, "parameters"
    where its gamma or beta alone is; ""."""
    names = {plain_name(key) for key in checkpoint.holding.others}
    there = {what for what, key in layer.keys.items() if plain_name(key) in names}
    if there & {"running_mean", "running_var"}:
        return "half"
    return "parameters" if there & {"gamma", "beta"} else ""


def before(layer: Held, weights: Weights) -> list[str]:
    """Weights that may lie before a layer: the nearest ones in the file, going back; then all others."""
    place = {key: number for number, key in enumerate(weights.checkpoint.tensors)}
    at = min((place[key] for key in layer.keys.values() if key in place), default=len(place))
    names = weights.names()
    ahead = [key for key in names if place[key] < at][::-1]
    near = ahead[:NEAR]
    return near + [key for key in names if key not in near]


def candidates(key: str, shape: tuple[int, ...], weights: Weights, used: set[str]) -> list[str]:
    """The weight of the same name first; then those of the same size in the file's order."""
    size = shape[0] * shape[1]
    fitting = [name for name in weights.names() if name not in used and weights.checkpoint.tensors[name].size == size]
    return sorted(fitting, key=lambda name: name != key)
