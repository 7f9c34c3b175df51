"""What layers of one thing lack beside their siblings, do not fit in shape, or hold twice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from bncheck.diagnosis.rules.holdings.start import at_start, trained
from bncheck.diagnosis.rules.holdings.words import BETA, GAMMA, MEAN, VAR, Said, flat, statistics, word
from bncheck.diagnosis.rules.layer_names import listed, of_all, together, verb
from bncheck.life import Held, Holding

# Names of layers that are BatchNorm for certain, and end in what a BatchNorm layer holds beside statistics.
LIKE_BN = re.compile(r"(?i)(^|[._/])(sync_?)?(bn|batch_?norm)[0-9a-z_]*$")
ENDINGS = re.compile(r"(.+)[./](weight|gamma|scale)(:0)?$")
STATISTIC = re.compile(r"(?P<layer>.+)[./](?P<word>running_mean|running_var|moving_mean|moving_variance)(:0)?")
PARTNER = {
    "running_mean": "running_var", "running_var": "running_mean",
    "moving_mean": "moving_variance", "moving_variance": "moving_mean",
}  # fmt: skip
AFFINE = ("weight", "bias", "gamma", "beta", "scale")
ENOUGH = 4  # channels: equal by chance in fewer


def misshaped(holding: Holding) -> Said | None:
    """Mean, variance, gamma and beta of one layer for different numbers of channels. One value for all is a choice."""
    odd: dict[str, dict[str, int]] = {}
    for held in holding.layers:
        parts = {name: flat(getattr(held, name)) for name in (MEAN, VAR, GAMMA, BETA)}
        widths = {word(holding, name): int(values.size) for name, values in parts.items() if values is not None}
        widths |= left_out(held, holding)
        if len({size for size in widths.values() if size != 1}) > 1:
            odd[held.layer] = widths
    for name, shapes in orphans(holding).items():
        if len(set(shapes.values())) > 1:  # a pair that fits is a layer's under another of its names
            odd[name] = {key: int(np.prod(shape)) for key, shape in shapes.items()}
    if not odd:
        return None
    layers = tuple(odd)
    widths = odd[layers[0]]
    empty = [name for name, size in widths.items() if not size]
    if empty and len({size for size in widths.values() if size > 1}) == 1:
        return of_placeholders(layers, empty, holding)
    sizes = [f"{name} of {size}" for name, size in widths.items()]
    where = "" if len(layers) == 1 else f" of {layers[0]}"
    return Said(
        layers,
        f"{of_all(layers, holding)} cannot be one layer: it has {listed(sizes)} channels{where}.",
        "look at how the checkpoint was put together: keys of two layers were mixed up, or channels were pruned in "
        "some of the arrays only",
        kind="defect",
        evidence={f"channels of {name}": size for name, size in widths.items()},
    )


def of_placeholders(layers: tuple[str, ...], empty: Sequence[str], holding: Holding) -> Said:
    """Parameters without a single number beside whole statistics: DeepSpeed's ZeRO-3 leaves such in each process."""
    return Said(
        layers,
        f"{listed(empty)} of {of_all(layers, holding)} {'is' if len(empty) == 1 else 'are'} empty (0 channels), beside "
        f"whole running statistics: the parameters are not in this file.",
        "gather them before you save (DeepSpeed ZeRO-3: stage3_gather_16bit_weights_on_model_save, or zero_to_fp32.py)",
        kind="defect",
        evidence={f"channels of {name}": 0 for name in empty},
    )


def left_out(held: Held, holding: Holding) -> dict[str, int]:
    """Gamma and beta that a reader left out of a layer, for they do not fit it: {name: channels}."""
    key = held.keys.get(MEAN, "")
    prefix = key[: len(key) - len(ending(key))]
    beside = {name: holding.others.get(f"{prefix}{name}") for name in AFFINE}
    return {name: shape[0] for name, shape in beside.items() if prefix and shape is not None and len(shape) == 1}


def orphans(holding: Holding) -> dict[str, dict[str, tuple[int, ...]]]:
    """Running statistics among everything else, by layer: one without the other, or two that do not fit."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in holding.others.items():
        match = STATISTIC.fullmatch(key)
        if match and len(shape) == 1 and shape[0] > 1 and is_norm(match["layer"], holding):
            found.setdefault(match["layer"], {})[match["word"]] = shape
    return found


def is_norm(name: str, holding: Holding) -> bool:
    """Whether a running mean by itself is a layer's, and not a loss's or a data set's: by what lies beside it, or by
    its name."""
    beside = any(f"{name}.{word}" in holding.others or f"{name}/{word}" in holding.others for word in AFFINE)
    return beside or bool(LIKE_BN.search(name)) or ending(name) in {ending(held.layer) for held in holding.layers}


def half_held(holding: Holding) -> Said | None:
    """A mean without a variance, or a variance without a mean."""
    half = {
        held.layer: (word(holding, MEAN), word(holding, VAR))[:: 1 if held.running_var is None else -1]
        for held in holding.layers
        if (held.running_mean is None) != (held.running_var is None)
    }
    for name, shapes in orphans(holding).items():
        has = next(iter(shapes))
        # The other one may be there and be no number per channel: a scalar, empty, of many steps.
        if len(shapes) == 1 and not {f"{name}.{PARTNER[has]}", f"{name}/{PARTNER[has]}"} & holding.others.keys():
            half[name] = (has, PARTNER[has])
    if not half:
        return None
    layers = tuple(half)
    has, lacks = half[layers[0]]
    return Said(
        layers,
        f"{of_all(layers, holding)} {verb(layers, 'holds', 'hold')} {has} and no {lacks}: a model that loads "
        f"them keeps the {lacks} that it has.",
        "save the whole state (state_dict, not parameters and single buffers)",
        quantity=VAR if "var" in lacks else MEAN,
    )


def without_statistics(holding: Holding) -> Said | None:
    """Layers without statistics in a file in which the others have them, or in which none has."""
    if holding.format == "model":
        return None
    held_with = [held for held in holding.layers if held.running_mean is not None or held.running_var is not None]
    counted = () if held_with else tuple(counted_in(holding))
    if counted:
        who = counted[0] if len(counted) == 1 else f"{len(counted)} layers ({listed(counted)})"
        return Said(
            counted,
            f"the running statistics of {who} are missing, though the file counts the batches that "
            f"{verb(counted, 'it has', 'they have')} seen "
            f"(num_batches_tracked). A model that loads the file with strict=False keeps the statistics that it has.",
            "save the whole state of the model, and load it with strict=True, which says what is missing",
            evidence={"layers without statistics": len(counted)},
        )
    lacking = [held.layer for held in holding.layers if held not in held_with and held.gamma is not None]
    known = {held.layer for held in holding.layers} | set(orphans(holding))
    lacking += [name for name in named_like(holding) if name not in known]
    if not lacking:
        return None
    if held_with:
        # A layer in `others` is known by its name alone; that it is named as those with statistics are, makes it sure.
        ends = {ending(held.layer) for held in held_with}
        layers = tuple(name for name in lacking if ending(name) in ends)
        if not layers:
            return None
        one = len(held_with) == 1
        others = (
            f"{len(held_with)} layer{'' if one else 's'} of the same kind {'has its own' if one else 'have theirs'}"
        )
        return Said(
            layers,
            f"the running statistics of {listed(layers)} are missing, where {others}. A "
            f"model that loads the file with strict=False keeps the statistics that it has.",
            "save the whole state of the model, and load it with strict=True, which says what is missing",
            evidence={"layers with statistics": len(held_with)},
        )
    one = len(lacking) == 1
    return Said(
        tuple(lacking),
        f"{len(lacking)} layer{' is' if one else 's are'} named like BatchNorm ({listed(lacking)}) and "
        f"{'has' if one else 'have'} no running statistics: a model that loads the file keeps those that it has. That "
        f"is right if {'it is' if one else 'they are'} of GroupNorm or LayerNorm, which have none.",
        "if they are BatchNorm layers, save buffers as well (state_dict, not parameters())",
        kind="convention",
        evidence={"layers without statistics": len(lacking)},
    )


def named_like(holding: Holding) -> Iterator[str]:
    """Layers among everything else whose name says BatchNorm, with a weight of one value per channel."""
    for key, shape in holding.others.items():
        match = ENDINGS.fullmatch(key)
        if match and len(shape) == 1 and LIKE_BN.search(match[1]):
            yield match[1]


def counted_in(holding: Holding) -> Iterator[str]:
    """Layers without statistics whose updates PyTorch counted: nothing but a layer with statistics has a counter."""
    for key in holding.others:
        name, _, end = key.rpartition(".")
        if end == "num_batches_tracked" and not {f"{name}.{MEAN}", f"{name}.{VAR}"} & holding.others.keys():
            yield name


def ending(name: str) -> str:
    return re.split(r"[./]", name)[-1]


def twins(holding: Holding) -> Said | None:
    """Two layers that hold the very same trained numbers, gamma and beta included: one layer at two places. Equal
    statistics alone come of equal inputs; a whole branch that is equal is a copy (a teacher, a target network)."""
    known: dict[bytes, list[Held]] = {}
    for held in holding.layers:
        facts = statistics(held)
        if facts is None or facts[0].size < ENOUGH or at_start(held) or not trained(held):
            continue
        if len(np.unique(facts[0])) < ENOUGH or not np.isfinite(facts).all():
            continue
        parts = [flat(held.gamma), flat(held.beta)]
        key = b"|".join([*(part.tobytes() for part in facts), *(b"" if p is None else p.tobytes() for p in parts)])
        known.setdefault(key, []).append(held)
    groups = [[held.layer for held in group] for group in known.values() if len(group) > 1]
    shared = [group for group in groups if not copies(group)]
    if not shared:
        return None
    first = shared[0]
    more = "" if len(shared) == 1 else f" So do {len(shared) - 1} more groups of layers."
    return Said(
        tuple(first),
        f"{together(first)} hold the same statistics, {word(holding, GAMMA)} and {word(holding, BETA)} to the last "
        f"bit: one layer at {len(first)} places, or one that was loaded into all of them. Its statistics mix what "
        f"reaches them.{more}",
        "give each place a BatchNorm layer of its own; other weights may be shared",
        evidence={"groups": len(shared), "layers in the first": len(first)},
    )


def copies(group: Sequence[str]) -> bool:
    """Whether two of them have the same name in different branches: a copied branch is no layer at two places."""
    return len({ending(name) for name in group}) < len(group)
