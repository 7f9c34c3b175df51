"""Evaluations with statistics that are not those of the weights: lost on load, reset, left behind in a copy."""

from __future__ import annotations

import numpy as np

from bncheck.diagnosis.rules.layer_names import named, of_all, verb
from bncheck.diagnosis.rules.lives.reading import (
    at_start,
    moves,
    parameters_are_trained,
    parameters_move,
    places,
    trained,
)
from bncheck.diagnosis.rules.lives.words import Said, by_line
from bncheck.life import Happening, LayerLife, Life

STATISTICS = ("running_mean", "running_var")


def lost_on_load(life: Life) -> Said | None:
    """A load that lacked running statistics, and an evaluation with those of a new layer behind it."""
    for load in (each for each in life.happenings if each.what == "load"):
        keys = [str(key) for key in load.detail.get("missing") or ()]
        missing = {key.rpartition(".")[0] for key in keys if ends_in_statistic(key)}
        lacking = [layer for layer in life.layers if any(is_path(layer, path) for path in missing)]
        new = [layer for layer in lacking if evaluated_new(layer, load.index)]
        if new:
            layers = tuple(layer.name for layer in new)
            return Said(
                layers,
                f"{of_all(layers, life)} {verb(layers, 'is', 'are')} evaluated with the statistics of a new layer, "
                f"mean 0 and variance 1: what {by_line(load.where)} loaded has no running statistics for "
                f"{verb(layers, 'it', 'them')}.",
                "save the whole state_dict (parameters() has no buffers), and load it with strict=True",
                where=load.where,
                step=load.step,
                evidence={"missing": ", ".join(sorted(keys)[:4])},
            )
    return None


def ends_in_statistic(key: str) -> bool:
    return key.rpartition(".")[2] in STATISTICS


def is_path(layer: LayerLife, path: str) -> bool:
    return any(
        name == path or name.endswith(f".{path}") or path.endswith(f".{name}") for name in (layer.name, *layer.names)
    )


def evaluated_new(layer: LayerLife, index: int) -> bool:
    """Whether the first forward behind an index evaluates with the statistics of a new layer."""
    where = places(layer, index)
    training = layer.get("training")
    return bool(len(where)) and training is not None and training[where[0]] == 0 and at_start(layer, int(where[0]))


def back_to_start(life: Life) -> Said | None:
    """Statistics that had moved are those of a new layer again when they are evaluated."""
    found: dict[str, Happening | None] = {}
    steps: dict[str, int] = {}
    for layer in life.layers:
        runs = trained(layer)
        if not runs:
            continue
        first = min(span.first_index for span in runs)
        where = [place for place in places(layer, first, training=0) if at_start(layer, int(place))]
        index, step = layer.get("index"), layer.get("step")
        if where and index is not None and step is not None:
            jumps = [
                each
                for each in life.happenings
                if each.what == "jump" and layer.name in each.layers and each.index <= index[where[0]]
            ]
            found[layer.name] = jumps[-1] if jumps else None
            steps[layer.name] = int(step[where[0]])
    if not found:
        return None
    layers = tuple(found)
    jump = found[layers[0]]
    by = {"load": "a load", "reset": "reset_running_stats()"}.get(str(jump.detail.get("by")) if jump else "", "")
    who = f": {by} ({by_line(jump.where)}) put them back." if jump is not None and by else "."
    return Said(
        layers,
        f"{of_all(layers, life)} {verb(layers, 'is', 'are')} evaluated in step {steps[layers[0]]:,} with the "
        f"statistics of a new layer, mean 0 and variance 1, although training had moved them{who}",
        "estimate the statistics anew before you evaluate (torch.optim.swa_utils.update_bn), or load them with the "
        "weights",
        where=jump.where if jump is not None else None,
        step=steps[layers[0]],
    )


def left_behind(life: Life) -> Said | None:
    """A copy whose parameters are brought up to date and whose statistics are not, while the original's move."""
    found: dict[str, str] = {}
    sources = [layer for layer in life.layers if trained(layer)]
    for layer in filter(only_evaluates, life.layers):
        where = places(layer, training=0)
        source = next((other for other in sources if of(layer, other)), None)
        if source is not None and parameters_move(layer, where) and still(layer, where):
            found[layer.name] = source.name
    if not found:
        return None
    layers = tuple(found)
    line = life.layer(layers[0]).spans[0].called_from
    copied = next((each.where for each in life.happenings if each.what == "copy"), None)
    return Said(
        layers,
        f"The copy that {by_line(line)} evaluates follows the weights and not the statistics: running_mean and "
        f"running_var of {of_all(layers, life)} stand still, while those of {named(found[layers[0]])} move.",
        "copy buffers as they are whenever you average parameters, or estimate them anew for the copy",
        where=copied or line,
        evidence={"original of the first": found[layers[0]]},
    )


def new_beside_trained(life: Life) -> Said | None:
    """A layer that is only evaluated, with the statistics of a new layer beside parameters that were trained."""
    if lost_on_load(life) is not None:
        return None
    found = []
    for layer in life.layers:
        where = places(layer, training=0)
        new = len(where) and only_evaluates(layer) and at_start(layer, int(where[-1]))
        if new and parameters_are_trained(layer, int(where[-1])) and not layer.kind.startswith("Frozen"):
            found.append(layer)
    if not found or left_behind(life) is not None:
        return None
    layers = tuple(layer.name for layer in found)
    came = [each for each in life.happenings if each.what in ("load", "copy") and each.index <= first_index(found[0])]
    how = {"load": "loaded", "copy": "copied"}.get(came[-1].what, "") if came else ""
    by = f" ({how} by {by_line(came[-1].where)})" if how else ""
    return Said(
        layers,
        f"{of_all(layers, life)} {verb(layers, 'is', 'are')} evaluated with the statistics of a new layer, mean 0 and "
        f"variance 1, beside trained gamma and beta{by}: the statistics were not loaded, copied or averaged with them.",
        "copy and save buffers together with parameters (parameters() has no buffers)",
        where=came[-1].where if came else found[0].spans[0].called_from,
    )


def only_evaluates(layer: LayerLife) -> bool:
    """Never in training mode, and never with gradients: nobody trains it."""
    return layer.tracks and not any(moves(span) or span.training is True or span.gradients for span in layer.spans)


def first_index(layer: LayerLife) -> int:
    return min((span.first_index for span in layer.spans), default=0)


def of(copy: LayerLife, source: LayerLife) -> bool:
    """Whether one layer can be a copy of another: the same place in a network, or its width and class where the name
    says nothing."""
    last = copy.name.split(" (")[0].split(".")
    other = source.name.split(" (")[0].split(".")
    return copy.channels == source.channels and copy.kind == source.kind and last[-1:] == other[-1:]


def still(layer: LayerLife, where: np.ndarray) -> bool:
    rows = [layer.get(name) for name in ("mean_before", "var_before")]
    return all(row is not None and bool((row[where] == row[where[0]]).all()) for row in rows)
