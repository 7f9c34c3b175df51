"""Findings about a model that only playing it shows: weights that do not fit, eval that depends on the batch. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bncheck.diagnosis.rules.layer_names import listed as several
from bncheck.finding import NONFINITE, Finding
from bncheck.life import Holding, LayerLife, Life
from bncheck.report.plain_text import plural
from bncheck.subjects.places import WORDS
from bncheck.trace import STATISTICS

# Relative to a layer's largest value: float32 rounding through a deep network stays below the first, and what
# normalises with the batch lies far above the second.
SAME, OTHER = 1e-4, 1e-3
SHOWN = 4
# Of a batch that is like the training data: means within a deviation of each other, variances within a factor of four.
FAR, WIDE = 4.0, 50.0


def misfit(said: Mapping[str, Any], target: str) -> Iterator[Finding]:
    """A checkpoint and a model whose states are not the same."""
    loaded = said.get("weights")
    if not loaded or not any(loaded["counts"]):
        return
    norms = tuple(str(layer["name"]) for layer in said["layers"])
    lost = [key for key in loaded["missing"] if not key.endswith("num_batches_tracked")]
    counters = len(loaded["missing"]) - len(lost)
    wrong = [*lost, *loaded["misshaped"]]
    statistics = [key for key in wrong if key.rpartition(".")[2] in ("running_mean", "running_var")]
    parts = []
    if loaded["misshaped"]:
        key, (theirs, ours) = next(iter(loaded["misshaped"].items()))
        parts.append(f"{plural(len(loaded['misshaped']), 'key')} of another shape ({key}: {theirs} for {ours})")
    if lost:
        parts.append(f"{plural(len(lost), 'key')} of the model that it lacks ({listed(lost)})")
    if loaded["unexpected"]:
        parts.append(
            f"{plural(len(loaded['unexpected']), 'key')} that the model does not have ({listed(loaded['unexpected'])})"
        )
    if not parts:
        return  # counters alone: a file of PyTorch before 0.4.1
    first = (statistics or wrong or loaded["unexpected"])[0]
    layer = next((name for name in sorted(norms, key=len, reverse=True) if first.startswith(f"{name}.")), "")
    consequence = "these keep what the model was built with" if wrong else "they were not used"
    if statistics:
        layers = {key.rpartition(".")[0] for key in statistics}
        consequence = (
            f"running statistics of {plural(len(layers), 'layer')} stay as built, and eval normalises with them"
        )
    yield Finding(
        code="BN115",
        cause="state-mismatch",
        kind="defect" if wrong else "hazard",
        title=f"The weights do not fit the model: {'; '.join(parts)}. So {consequence}.",
        targets=(target,),
        scenario="check",
        case="",
        layer=layer,
        quantity=first.rpartition(".")[2] if layer else "",
        evidence={
            "missing": len(lost),
            "unexpected": len(loaded["unexpected"]),
            "misshaped": len(loaded["misshaped"]),
            "counters missing": counters,
        },
        advice="build the model that was saved, or rename the keys; load_state_dict(strict=True) refuses this file",
        accounts=tuple(key.rpartition(".")[::2] for key in statistics if key != first),
    )


def listed(keys: Sequence[str]) -> str:
    rest = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + rest


def nonfinite(said: Mapping[str, Any], target: str, others: Sequence[Finding]) -> Iterator[Finding]:
    """NaN or Inf in what it gives in eval, unless a finding says where it comes from."""
    bad = [each for each in said.get("output", ()) if each["bad"]]
    if bad and not any(item.of_nan or item.kind == "defect" for item in others):
        each = bad[0]
        total = math.prod(each["shape"])
        yield Finding(
            code="BN301",
            cause="poisoned-state",
            kind="hazard",
            title=f"In eval the model gives NaN or Inf: {each['bad']} of {total} values of {each['name']}.",
            targets=(target,),
            scenario="check",
            case="",
            quantity="output",
            evidence={NONFINITE: "NaN or Inf", "values": each["bad"]},
            advice="no normalising layer holds NaN; look at the other weights, and at the input",
        )


def switched_off(said: Mapping[str, Any], holding: Holding) -> Iterator[Finding]:
    """Layers that hold running statistics, and whose track_running_stats was set to False after they were made."""
    kept = {layer.layer for layer in holding.layers if layer.running_mean is not None}
    still = [
        str(each["name"])
        for each in said["layers"]
        if each.get("tracks") is False and not each["own"] and each["name"] in kept
    ]
    if still:
        verb, own, made = ("holds", "its", "it was") if len(still) == 1 else ("hold", "their", "they were")
        yield Finding(
            code="BN117",
            cause="never-updated",
            kind="hazard",
            title=f"{several(still)} {verb} running statistics that no training moves: {own} track_running_stats was "
            f"set to False after {made} made. Eval normalises with them all the same.",
            targets=(holding.name,),
            scenario="check",
            case="",
            layer=still[0],
            quantity="running_mean",
            evidence={"layers": len(still)},
            advice="nothing, if they are to stay as they are; otherwise set track_running_stats back to True; for the "
            "batch's statistics in eval, too, build with track_running_stats=False",
            accounts=tuple(
                (name, quantity)
                for name in still
                for quantity in STATISTICS
                if (name, quantity) != (still[0], "running_mean")
            ),
        )


def set_by_forward(life: Life, target: str) -> Iterator[Finding]:
    """Layers that the model's own forward puts into training mode, though eval() was called on the whole."""
    lines, evaluating = {}, False
    for each in life.happenings:
        if each.what == "phase":
            evaluating = str(each.detail.get("name", "")).startswith("eval")
        elif each.what == "train" and evaluating and each.where is not None:
            lines.update({name: each.where for name in each.layers if name not in lines})
    ran = [
        layer.name
        for layer in life.layers
        if layer.name in lines and any(span.training is True and not span.gradients for span in layer.spans)
    ]
    if not ran:
        return
    where = lines[ran[0]]
    yield Finding(
        code="BN401",
        cause="mode-leak",
        kind="hazard",
        title=f"{where.label} puts {several(ran)} into training mode while the model is evaluated, after eval() was "
        "called: eval normalises with the batch and moves the running statistics.",
        targets=(target,),
        scenario="check",
        case="",
        layer=ran[0],
        quantity="training",
        evidence={"layers": len(ran), "line": where.label},
        advice=WORDS.get(life.framework, WORDS["torch"]).modes,
        accounts=tuple((name, "training") for name in ran[1:]),
    )


def batch_dependence(said: Mapping[str, Any], target: str, others: Sequence[Finding]) -> Iterator[Finding]:
    """In eval a sample's result depends on who else is in the batch: the first layer that makes it so, unless a finding
    says why it does."""
    found = said.get("batches")
    if not found or any(item.cause == "unregistered" for item in others):
        return
    known = [item for item in others if item.cause in ("mode-leak", "normaliser-source")]
    leaking = {place for item in known for place, _ in item.places}
    kinds = {str(layer["name"]): str(layer["kind"]) for layer in said["layers"]}
    for name, kind in kinds.items():
        given, out = found["layers"].get(name, (0.0, 0.0))
        if given > SAME or out < OTHER:
            continue
        if name not in leaking:
            yield dependence(target, name, f"{name} (a {kind})", out, found)
        return
    given, out = found["layers"].get("", (0.0, 0.0))
    inside = max((max(gap) for name, gap in found["layers"].items() if name), default=0.0)
    if out >= OTHER and inside < SAME:
        yield dependence(target, "", "something other than its normalising layers", out, found)


def dependence(target: str, layer: str, who: str, size: float, found: Mapping[str, Any]) -> Finding:
    sizes = " and ".join(map(str, found["sizes"]))
    much = "finite and not" if math.isinf(size) else f"by up to {size:.1%} of the largest value"
    return Finding(
        code="BN111",
        cause="normaliser-source",
        kind="hazard",
        title=f"In eval {who} gives the same sample another output in another batch, {much}.",
        targets=(target,),
        scenario="check",
        case="",
        layer=layer,
        quantity="output",
        evidence={"samples": int(found["samples"]), "other batches": sizes, "relative difference": size},
        advice="in eval, normalise with the running statistics: if not self.training, use running_mean and running_var"
        if layer
        else "look for what scales itself by the batch it gets (dynamic quantisation), or compares samples",
    )


def unlike_data(layers: Sequence[LayerLife], target: str) -> Iterator[Finding]:
    """The user's batch beside the statistics of the first layer that holds any: of other data, or scaled otherwise.
    Later layers only pass it on; a layer at its start (mean 0, variance 1) was made of none."""
    first = next((layer for layer in layers if layer.tracks and np.isfinite(gaps(layer))), None)
    if first is None:
        return
    row = int(np.flatnonzero(np.asarray(first.get("training")) == 0)[0])
    given, mean, var = (np.asarray(first.get(word))[row] for word in ("input_var", "mean_before", "var_before"))
    if not np.any(mean) and np.all(var == 1):
        return
    size = gaps(first)
    with np.errstate(all="ignore"):
        ratio = float(np.median(given / var))
    if size < FAR and 1 / WIDE < ratio < WIDE:
        return
    yield Finding(
        code="BN412",
        cause="data-shift",
        kind="hazard",
        title=f"Your data are not what {first.name} was trained on: their means lie {size:.3g} standard deviations "
        f"from its running means, and their variances are {ratio:.3g} times the running ones.",
        targets=(target,),
        scenario="check",
        case="",
        layer=first.name,
        quantity="running_mean",
        evidence={"means off by, in deviations": size, "ratio of variances": ratio},
        advice="scale and normalise the batch as in training (0 to 255 or 0 to 1, mean and std, order of channels)",
    )


def gaps(lived: LayerLife) -> float:
    """Root mean square, over channels, of how far the input's mean lies from the running mean, in units of what eval
    divides by; of the first forward in eval that was kept. NaN where there is none."""
    needed = [lived.get(word) for word in ("training", "input_mean", "mean_before", "var_before", "eps")]
    if any(array is None for array in needed):
        return math.nan
    training, given, mean, var, eps = (np.asarray(array) for array in needed)
    rows = np.flatnonzero(training == 0)
    if not rows.size:
        return math.nan
    row = rows[0]
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.mean((given[row] - mean[row]) ** 2 / (var[row] + np.nan_to_num(eps[row])))))
