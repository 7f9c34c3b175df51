"""Where NaN and Inf began: in which step, in which layer, and whether BatchNorm made them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bncheck.diagnosis.rules.layer_names import listed, named, of_all
from bncheck.diagnosis.rules.lives.reading import places
from bncheck.diagnosis.rules.lives.words import Said, by_line, count
from bncheck.diagnosis.rules.roundoff import LARGEST
from bncheck.diagnosis.rules.wording import number
from bncheck.finding import LOWEST, NONFINITE
from bncheck.life import Happening, LayerLife, Life

HEAL = "reset the running statistics and re-estimate them on clean data; no further training heals them"


def poisoned(life: Life) -> Iterator[Said]:
    """What began, and where; what overflowed or had one value per channel is said by the rules of those."""
    said = [*held_from_the_start(life)]
    yield from said
    known = {layer for item in said for layer in item.layers}
    first = first_birth(life)
    if first is None or overflowed(life, first) or single(life, first) or set(first.layers) & known:
        return
    last = born(life, first) if first.detail.get("born") else came_in(life, first)
    if last is not None:
        yield last


def first_birth(life: Life) -> Happening | None:
    """The first NaN or Inf of the program: later ones follow from it."""
    return min(
        (each for each in life.happenings if each.what == "nonfinite"), key=lambda each: each.index, default=None
    )


def held_from_the_start(life: Life) -> Iterator[Said]:
    """Statistics that are NaN, Inf or a variance below zero in the first forward of a layer, before it trained."""
    bad: dict[str, list[str]] = {"not finite": [], "below zero": []}
    low = 0.0
    for layer in life.layers:
        mean, var = layer.get("mean_before"), layer.get("var_before")
        if mean is None or var is None or not len(mean) or first_index(layer) != int(layer.moments["index"][0]):
            continue
        if not np.isfinite(mean[0]).all() or not np.isfinite(var[0]).all():
            bad["not finite"].append(layer.name)
        elif (var[0] < 0).any():
            bad["below zero"].append(layer.name)
            low = min(low, float(var[0].min()))
    for word, layers in bad.items():
        if layers:
            what = f"below zero (lowest {number(low)})" if word == "below zero" else "NaN or Inf"
            yield Said(
                tuple(layers),
                f"The running statistics of {of_all(layers, life)} are {what} before the first forward: whatever was "
                f"loaded holds them so, and eval gives NaN.",
                "load a checkpoint from before it (bncheck check FILE says which are damaged)",
                quantity="running_var",
                evidence={LOWEST: low} if word == "below zero" else {NONFINITE: "NaN or Inf"},
            )


def first_index(layer: LayerLife) -> int:
    return min((span.first_index for span in layer.spans), default=-1)


def born(life: Life, birth: Happening) -> Said:
    """A finite batch, and a layer that makes NaN or Inf of it."""
    name = birth.layers[0] if birth.layers else ""
    layer = life.layer(name)
    what = "its running statistics" if birth.detail.get("in") == "state" else "its output"
    return Said(
        (name,),
        f"{named(name)} makes NaN or Inf of a finite batch in step {birth.step:,}: {what} first, and "
        f"{followed(life, birth)}.{why(layer, birth)}",
        HEAL if birth.detail.get("in") == "state" else "look at eps, gamma and beta of this layer",
        quantity="running_var" if birth.detail.get("in") == "state" else "output",
        step=birth.step,
        evidence={NONFINITE: "NaN or Inf"},
    )


def why(layer: LayerLife, birth: Happening) -> str:
    """What the layer held then, where it was kept."""
    where = places(layer, birth.index, birth.index)
    if not len(where):
        return ""
    place = int(where[0])
    for quantity in ("gamma", "beta"):
        rows = layer.get(quantity)
        if rows is not None and not np.isfinite(rows[place]).all():
            return f" Its {quantity} was not finite by then: the optimiser's last step made it so."
    var = layer.get("var_before")
    if var is not None and (var[place] < 0).any():
        return f" Its running_var was below zero ({number(float(var[place].min()))})."
    return ""


def came_in(life: Life, birth: Happening) -> Said | None:
    """What reached the first layer was not finite: BatchNorm did not make it, but it keeps it."""
    name = birth.layers[0] if birth.layers else ""
    kept = list(dict.fromkeys(layer.name for layer in life.layers if remembers(layer)))
    if not kept:
        return None  # a bad batch that left nothing behind
    layer = life.layer(name)
    run = next((span for span in layer.spans if span.first_index <= birth.index <= span.last_index), None)
    half = run is not None and run.input_dtype in ("float16", "bfloat16")
    front = (
        f"it was cast to {run.input_dtype} in front of that layer, or a layer before it overflowed there"
        if half and run is not None
        else "the data, or a layer in front of it, brought it"
    )
    line = by_line(run.called_from) if run is not None else "the program"
    said = f"NaN or Inf reached {named(name)} in step {birth.step:,} ({line}) and stays in the running statistics of "
    said += f"{listed(kept)}: {front}, BatchNorm did not make it. Eval is NaN from then on."
    if birth.detail.get("born") is None:  # in a compiled function
        said = f"The running statistics of {listed(kept)} hold NaN or Inf from step {birth.step:,} on ({line}), and "
        said += "eval is NaN from then on. That step is compiled: what reached the layers there was not seen."
    return Said(
        tuple(dict.fromkeys((name, *kept))),
        said,
        f"check the batches (and the weights in front) of step {birth.step:,}; then {HEAL}",
        quantity="running_mean",
        where=run.called_from if run is not None else None,
        step=birth.step,
        evidence={NONFINITE: "NaN or Inf", "layers that keep it": len(kept)},
    )


def remembers(layer: LayerLife) -> bool:
    """Whether a layer's statistics are not finite at the last moment that was kept of it."""
    rows = [layer.get(name) for name in ("mean_after", "var_after")]
    return any(row is not None and len(row) and not np.isfinite(row[-1]).all() for row in rows)


def followed(life: Life, birth: Happening) -> str:
    later = {name for each in life.happenings if each.what == "nonfinite" and each is not birth for name in each.layers}
    return f"{count(len(later), 'other layer')} after it" if later else "no other layer after it"


# ------------------------------------------------------------------------------------------- overflow, single


def overflowed(life: Life, birth: Happening) -> bool:
    return overflow_of(life, birth) is not None


def overflow_of(life: Life, birth: Happening) -> tuple[LayerLife, float, str] | None:
    """(layer, the largest statistic of the batch, dtype of the buffer) where a finite batch is beyond its range."""
    if not birth.detail.get("born") or not birth.layers:
        return None
    layer = life.layer(birth.layers[0])
    where = places(layer, birth.index, birth.index)
    mean, var = layer.get("input_mean"), layer.get("input_var")
    if not len(where) or mean is None or var is None:
        return None
    largest = float(np.nanmax(np.maximum(np.abs(mean[where[0]]), var[where[0]] + mean[where[0]] ** 2)))
    dtype = layer.dtypes.get("running_var", "float32")
    return (layer, largest, dtype) if not largest < LARGEST.get(dtype, np.inf) else None


def overflow(life: Life) -> Said | None:
    first = first_birth(life)
    found = None if first is None else overflow_of(life, first)
    if first is None or found is None:
        return None
    layer, largest, dtype = found
    return Said(
        (layer.name,),
        f"The running statistics of {named(layer.name)} overflow on a finite batch in step {first.step:,}: squares "
        f"reach {number(largest)}, and {dtype} holds up to {LARGEST[dtype]:g}. Eval answers the same for every input.",
        "scale the input, or keep the statistics in a wider dtype",
        quantity="running_var",
        step=first.step,
        evidence={"largest square": largest, "dtype": dtype},
    )


def single(life: Life, birth: Happening) -> bool:
    """Whether it began with one value per channel."""
    if not birth.layers:
        return False
    runs = [span for span in life.layer(birth.layers[0]).spans if span.first_index <= birth.index <= span.last_index]
    return any(span.n[0] == 1 and span.training for span in runs)


def refused(life: Life) -> Said | None:
    """A batch with one value per channel that a layer raised at: the framework's error names no layer."""
    first = next((each for each in life.happenings if each.what == "refused" and each.layers), None)
    if first is None:
        return None
    return Said(
        first.layers,
        f"{of_all(first.layers, life)} refuses a batch with one value per channel in step {first.step:,} "
        f"({by_line(first.where)}): training needs more than one.",
        LARGER,
        quantity="running_var",
        where=first.where,
        step=first.step,
        evidence={"smallest n": 1},
    )


def few_values(life: Life) -> Said | None:
    """Training forwards with one value per channel; layers that never get more than two."""
    one, two = {}, {}
    for layer in life.layers:
        runs = [span for span in layer.spans if span.training is True and span.moved and span.n[0] > 0]
        if not runs or not layer.tracks:
            continue
        if any(span.n[0] == 1 for span in runs):
            one[layer.name] = [span for span in runs if span.n[0] == 1]
        elif all(span.n[1] <= 2 for span in runs):
            two[layer.name] = runs
    found = one or two
    if not found:
        return None
    layers = tuple(found)
    runs = found[layers[0]]
    line, most = by_line(runs[0].called_from), max(span.n[1] for span in runs)
    if one:
        spoilt = any(remembers(life.layer(name)) for name in layers)
        batches = "all batches have" if most == 1 else "a batch has"
        title = f"{of_all(layers, life)} trained on one value per channel: {batches} a single one there ({line}). "
        title += "The running statistics are not finite since." if spoilt else ZERO
    else:
        title = f"{of_all(layers, life)} never got more than two values per channel in training ({line}): normalised, "
        title += "each of them is +1 or -1, whatever it was."
    return Said(
        layers,
        title,
        LARGER,
        quantity="running_var",
        where=runs[0].called_from,
        step=runs[0].first_step,
        evidence={"smallest n": min(span.n[0] for span in runs), "largest n": most},
    )


LARGER = "train on larger batches: drop the last incomplete one (drop_last=True), or run such batches in eval mode"
ZERO = "The variance of such a batch is 0: the output is beta, and running_var shrinks."
