"""Which arrays of a state belong to normalising layers: told by names *and* shapes.

A layer is a prefix with a mean-like and a variance-like array of one length C. Names that nothing but a running
statistic has (``running_mean``, ``moving_variance``, ``stored_var``) are enough; ``mean`` and ``var`` alone are not:
preprocessing has them too, so they need a gamma or beta of that length beside them, or to lie in ``batch_stats``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bncheck.checkpoints.tensor import Tensor
from bncheck.checkpoints.tree import State
from bncheck.errors import CheckpointError
from bncheck.life import Held

# Quantity → the words for it, over the frameworks and customs met. A word that says enough by itself comes first.
CERTAIN: Mapping[str, tuple[str, ...]] = {
    "running_mean": (
        "running_mean", "moving_mean", "stored_mean", "pop_mean", "population_mean", "running_avg_mean", "running_mu",
        "moving_avg_mean", "mean_ema/average", "mean_ema/~/average", "_mean", "_running_mean",
    ),
    "running_var": (
        "running_var", "running_variance", "moving_variance", "moving_var", "stored_var", "stored_variance", "pop_var",
        "pop_variance", "population_variance", "running_avg_var", "moving_avg_var", "var_ema/average", "_variance",
        "_running_var", "_var",
    ),
    "running_std": ("running_std", "moving_std", "stored_std", "running_sd", "_running_std"),
}  # fmt: skip
POSSIBLE: Mapping[str, tuple[str, ...]] = {"running_mean": ("mean", "mu"), "running_var": ("var", "variance")}
BESIDE = {
    "gamma": ("weight", "gamma", "scale", "_scale", "_gamma"),
    "beta": ("bias", "beta", "offset", "shift", "_bias", "_beta"),
    "affine": ("affine",),  # gamma or beta: Keras's numbers do not say which
    "counter": ("num_batches_tracked", "num_batches", "accumulation_counter", "mean_ema/counter", "counter"),
}
# Words with an underscore in front of a name ("batchnorm0_running_mean") end it too; others only behind . and /.
AFTER_UNDERSCORE = ("running_mean", "running_var", "moving_mean", "moving_variance", "moving_var", "gamma", "beta")
# Parts of a name that say in which collection a tensor lies, not in which layer.
COLLECTIONS = re.compile(r"^(params|batch_stats|state|variables)[/.]|^_?trainable_state[/.]")
WRAPPERS = re.compile(r"^(module\.)+")
COMPILED = re.compile(r"(^|\.)_orig_mod(?=\.)")
# More than these bytes of statistics are no model's.
LARGEST = 256 * 2**20
MOST = 20_000  # layers; the largest model met has 700


@dataclass
class Found:
    """The arrays under one prefix: quantity → (the file's name, tensor)."""

    prefix: str
    arrays: dict[str, tuple[str, Tensor]] = field(default_factory=dict)
    sure: bool = True


def plain_name(name: str) -> str:
    """A key without what wraps the model or the variable: ``module.``, ``_orig_mod.``, ``params/``, ``:0``."""
    bare = COMPILED.sub("", COLLECTIONS.sub("", name.removeprefix("arg:").removeprefix("aux:"))).lstrip(".")
    return WRAPPERS.sub("", bare).removesuffix(":0")


def split(name: str, words: Iterable[str]) -> str | None:
    """The prefix of a name that ends in one of the words; None where it does not."""
    for word in words:
        if name == word:
            return ""
        if name.endswith((f".{word}", f"/{word}")) or (word in AFTER_UNDERSCORE and name.endswith(f"_{word}")):
            return name[: -len(word) - 1]
    return None


def statistic(bare: str) -> tuple[str, str, bool]:
    """(quantity, prefix, whether the word is enough by itself) of a name; "" where it is no statistic's."""
    for sure, table in ((True, CERTAIN), (False, POSSIBLE)):
        for quantity, words in table.items():
            prefix = split(bare, words)
            if prefix is not None:
                return quantity, prefix, sure
    return "", "", False


def channels(tensor: Tensor) -> int:
    """The length of an array of one number per channel, (C,) or (1, C, 1, 1); 0 for any other."""
    long = [side for side in tensor.shape if side != 1]
    if not tensor.shape or len(long) > 1 or 0 in tensor.shape:
        return 0
    return long[0] if long else 1


UNJUDGED = ": its layer is not judged."  # how a remark on statistics that are left alone ends
REAL = ("float", "bfloat", "int", "uint", "bool")


def is_real(tensor: Tensor) -> bool:
    """No layer has other numbers: half of a complex one would be dropped on the way to float64, and text or a date is
    none."""
    return tensor.dtype.startswith(REAL)


def find(state: State) -> list[Found]:
    """Prefixes with a mean and a variance of one length, in the file's order."""
    prefixes: dict[str, Found] = {}
    for name, tensor in state.tensors.items():
        bare = plain_name(name)
        quantity, prefix, sure = statistic(bare)
        if quantity and channels(tensor) and is_real(tensor):
            layer = prefixes.setdefault(prefix, Found(prefix=prefix))
            layer.arrays.setdefault(quantity, (name, tensor))
            layer.sure = layer.sure and (sure or "batch_stats" in name)
    complete = {prefix: layer for prefix, layer in prefixes.items() if fits(layer)}
    for name, tensor in state.tensors.items():
        bare = plain_name(name)
        for quantity, words in BESIDE.items():
            owner = split(bare, words)
            if not is_real(tensor) or owner is None or owner not in complete:
                continue
            if quantity not in complete[owner].arrays:
                complete[owner].arrays[quantity] = (name, tensor)
    return [layer for layer in complete.values() if layer.sure or has_affine(layer)]


def fits(layer: Found) -> bool:
    second = layer.arrays.get("running_var") or layer.arrays.get("running_std")
    first = layer.arrays.get("running_mean")
    return first is not None and second is not None and channels(first[1]) == channels(second[1])


def has_affine(layer: Found) -> bool:
    size = channels(layer.arrays["running_mean"][1])
    return any(what in layer.arrays and channels(layer.arrays[what][1]) == size for what in ("gamma", "beta"))


def held(layer: Found, numbers: Mapping[str, float], remarks: list[str]) -> Held:
    """What a layer holds, read from the file. A gamma or beta of another length is left out and remarked on."""
    size = channels(layer.arrays["running_mean"][1])
    name = layer.prefix or "(the file itself)"
    arrays: dict[str, NDArray[Any]] = {}
    used = dict(layer.arrays)
    counter = used.pop("counter", None)
    for quantity, (key, tensor) in layer.arrays.items():
        if quantity == "counter":
            continue
        if channels(tensor) != size:
            remarks.append(f"{key} has the shape {tensor.shape} beside statistics of {size} channels; it is left out.")
            used.pop(quantity)
            continue
        arrays[quantity] = tensor.read().reshape(-1)
    if "running_std" in arrays:
        if "running_var" not in arrays:
            spread = arrays["running_std"]
            arrays["running_var"] = spread * np.abs(spread)
            used["running_var"] = used["running_std"]
            remarks.append(f"{name} holds a running standard deviation; its square is shown as the variance.")
        used.pop("running_std")
    own = {key.rpartition(".")[2]: value for key, value in numbers.items() if key.rpartition(".")[0] == layer.prefix}
    return Held(
        layer=name,
        running_mean=arrays["running_mean"],
        running_var=arrays["running_var"],
        counter=count(counter, own),
        gamma=arrays.get("gamma"),
        beta=arrays.get("beta"),
        eps=own.get("eps", own.get("epsilon", own.get("_epsilon"))),
        momentum=own.get("momentum", own.get("_momentum")),
        training=bool(own["training"]) if "training" in own else None,
        dtypes={what: tensor.dtype for what, (_, tensor) in used.items() if tensor.dtype == "bfloat16"},
        shapes={what: tensor.shape for what, (_, tensor) in used.items()},
        keys={what: key for what, (key, _) in used.items()} | ({"counter": counter[0]} if counter else {}),
    )


def count(counter: tuple[str, Tensor] | None, numbers: Mapping[str, float]) -> float | None:
    if counter is not None and counter[1].size == 1:
        return float(counter[1].read().reshape(-1)[0])
    return numbers.get("num_batches_tracked")


def left_alone(state: State) -> Iterable[str]:
    """Statistics by their name that can be none of a layer's: no numbers, or none or many per channel."""
    for name, tensor in state.tensors.items():
        quantity, _, sure = statistic(plain_name(name))
        if quantity and not is_real(tensor):
            holds = "complex numbers" if tensor.dtype.startswith("complex") else f"no numbers ({tensor.dtype})"
            yield f"{name} holds {holds}{UNJUDGED}"
        elif quantity and sure and not channels(tensor):
            yield f"{name} has the shape {tensor.shape}, which is not one number per channel{UNJUDGED}"


def layers_of(state: State, remarks: list[str]) -> tuple[Held, ...]:
    """What the normalising layers of a state hold. Remarks are added for what was left out."""
    found = find(state)
    if len(found) > MOST:
        raise CheckpointError(f"The file declares {len(found):,} normalising layers, more than any model has.")
    if sum(tensor.size for layer in found for _, tensor in layer.arrays.values()) * 8 > LARGEST:
        raise CheckpointError("The file declares running statistics larger than those of any model.", "save it again")
    remarks += left_alone(state)
    numbers = {plain_name(name): value for name, value in state.numbers.items()}
    return tuple(held(layer, numbers, remarks) for layer in found)
