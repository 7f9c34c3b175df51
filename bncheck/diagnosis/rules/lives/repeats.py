"""Statistics that move more than once per step: recomputation, the same batch again."""

from __future__ import annotations

import numpy as np

from bncheck.diagnosis.rules.layer_names import of_all
from bncheck.diagnosis.rules.lives.reading import moves, places, trained
from bncheck.diagnosis.rules.lives.words import Said, by_line, count
from bncheck.diagnosis.rules.wording import number
from bncheck.life import LayerLife, Life, Span

AGAIN = 2  # steps in which it has to be so


def recomputed(life: Life) -> Said | None:
    """Forwards inside a backward that move the statistics a second time."""
    found: dict[str, list[Span]] = {}
    for layer in life.layers:
        again = [span for span in layer.spans if span.in_backward and span.training is True and moves(span)]
        first = [span for span in layer.spans if not span.in_backward and span.training is True and moves(span)]
        if again and first and sum(span.moved or 0 for span in again) >= AGAIN:
            found[layer.name] = again
    if not found:
        return None
    layers = tuple(found)
    layer = life.layer(layers[0])
    again = found[layers[0]]
    twice = sum(span.moved or 0 for span in again)
    line = next((span.called_from for span in layer.spans if not span.in_backward and span.training), None)
    at = f", {by_line(line)}" if line is not None else ""
    weight = weight_of(life, layer)
    as_if = f" A momentum of {number(weight)} acts as {number(1 - (1 - weight) ** 2)}." if weight is not None else ""
    return Said(
        layers,
        f"Recomputation moves the running statistics of {of_all(layers, life)} a second time: "
        f"{count(twice, 'forward')} inside a backward took the same batch in again (checkpointing{at})."
        f"{as_if}",
        "keep BatchNorm out of what is checkpointed, or set momentum to 1 - sqrt(1 - momentum)",
        where=line,
        evidence={"forwards in a backward": twice, **({} if weight is None else {"momentum": weight})},
    )


def weight_of(life: Life, layer: LayerLife) -> float | None:
    """Torch's momentum, where it is the weight of an exponential average."""
    rows = layer.get("momentum")
    if rows is None or not len(rows) or life.framework != "torch":
        return None
    value = float(rows[-1])
    return value if 0 < value < 1 else None


def same_batch(life: Life) -> Said | None:
    """The very same batch goes in twice within a step, and moves the statistics twice."""
    found = {layer.name: repeated for layer in life.layers if (repeated := repetitions(layer)) >= AGAIN}
    if not found:
        return None
    layers = tuple(found)
    runs = trained(life.layer(layers[0]))
    line = runs[0].called_from if runs else None
    return Said(
        layers,
        f"The same batch moves the running statistics of {of_all(layers, life)} twice within a step, in "
        f"{count(found[layers[0]], 'step')} of those that were kept: it is forwarded in training mode more than once.",
        "take what you need from one forward, or make the other in eval mode",
        kind="convention",
        where=line,
        evidence={"steps": found[layers[0]]},
    )


def repetitions(layer: LayerLife) -> int:
    """Steps in which two training forwards, outside a backward, have the same input to the last bit."""
    where = places(layer, training=1, in_backward=0)
    mean, var, step = (layer.get(name) for name in ("input_mean", "input_var", "step"))
    before, after = layer.get("mean_before"), layer.get("mean_after")
    if mean is None or var is None or step is None or before is None or after is None:
        return 0
    seen: dict[tuple[int, bytes], int] = {}
    for place in where:
        if (before[place] == after[place]).all() or not np.isfinite(mean[place]).all() or not var[place].any():
            continue
        key = (int(step[place]), mean[place].tobytes() + var[place].tobytes())
        seen[key] = seen.get(key, 0) + 1
    return len({step for (step, _), times in seen.items() if times > 1})
