"""Layers that a model itself keeps in eval while all of it is put into training: a frozen backbone. It is meant so, and
no finding; ``check`` of a model and ``run`` of a scenario with one say it in the same sentence. Pure."""

from __future__ import annotations

from bncheck.diagnosis.rules.layer_names import of_all, verb
from bncheck.life import LayerLife, Life


def kept_in_eval(life: Life | None) -> list[str]:
    """A sentence on the framework's own layers of which every forward with gradients ran in eval, if there are any."""
    found = [layer.name for layer in life.layers if stays(layer)] if life is not None else []
    if life is None or not found:
        return []
    who = of_all(found, life)
    return [
        f"{who[:1].upper() + who[1:] if who.startswith('layer ') else who} {verb(found, 'runs', 'run')} in eval while "
        f"the model trains, because the model itself keeps {verb(found, 'it', 'them')} there (frozen): "
        f"{verb(found, 'it normalises with its', 'they normalise with their')} running statistics, which stay as they "
        "are."
    ]


def stays(layer: LayerLife) -> bool:
    trained = [span for span in layer.spans if span.gradients and not span.in_backward]
    return (
        layer.tracks
        and not layer.own
        and bool(trained)
        and all(span.training is False and span.moved == 0 for span in trained)
    )
