"""Averaged weights that are evaluated with the running statistics of those that were averaged."""

from __future__ import annotations

import math

from bncheck.diagnosis.lived.judged import Lived, lived
from bncheck.diagnosis.rules.layer_names import named, of_all
from bncheck.diagnosis.rules.lives.behind import only_evaluates
from bncheck.diagnosis.rules.lives.reading import at_start, places
from bncheck.diagnosis.rules.lives.words import Said, by_line
from bncheck.diagnosis.rules.wording import number
from bncheck.finding import GAP
from bncheck.life import Happening, Life

# In deviations of the output: what an average does to the statistics is worth a word from here on. Of few values in a
# batch more is chance.
NOTICED, CHANCE = 0.2, 4.0


def unlike(life: Life) -> Said | None:
    """torch's AveragedModel copies the statistics of the latest weights with each update, unless it averages them, too
    (before 2.0 it kept those that it was made with); those of its own weights come from update_bn, which runs it in
    training mode. Statistics of a new layer are another matter (behind.py)."""
    copies = {name: each for each in life.happenings if each.what == "average" for name in each.layers}
    found = [layer for layer in lived(life) if layer.life.name in copies and is_off(layer, copies[layer.life.name])]
    if not found:
        return None
    layers = tuple(layer.life.name for layer in found)
    worst = max(found, key=size_of)
    line = copies[layers[0]].where
    return Said(
        layers=layers,
        title=f"The averaged weights of {by_line(line)} are evaluated with running statistics that are not their own: "
        f"those of {of_all(layers, life)} come from the weights that were averaged. In eval the output of "
        f"{named(worst.life.name)} is off by {number(round(size_of(worst), 2))} standard deviations.",
        advice="call torch.optim.swa_utils.update_bn(loader, averaged_model) before you evaluate or save it",
        where=line,
        evidence={GAP: size_of(worst)},
    )


def is_off(layer: Lived, copied: Happening) -> bool:
    ev = layer.evaluation
    where = places(layer.life, training=0)
    return (
        copied.detail.get("buffers") is False
        and len(where) > 0
        and not at_start(layer.life, int(where[-1]))
        and only_evaluates(layer.life)
        and ev is not None
        and size_of(layer) > NOTICED + CHANCE / math.sqrt(ev.batch.n)
    )


def size_of(layer: Lived) -> float:
    ev = layer.evaluation
    return ev.gap.size if ev is not None and ev.gap is not None else 0.0
