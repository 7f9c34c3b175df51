"""What to do about a function that changed a model, in the words of its framework; readings speak of PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bncheck.diagnosis.held.reading import Reading

# What decides whether a layer's parameters are trained.
SWITCH: Mapping[str, str] = {"torch": "requires_grad", "keras": "layer.trainable"}
COPY = "give it a copy of the model: new = keras.models.clone_model(model); new.set_weights(model.get_weights())"
HAND_OVER = "hand the weights over after it: new.set_weights(model.get_weights())"
KERAS: Mapping[str, str] = {
    "update-count": f"call the model with training=False in it, or {COPY}",
    "stale-state": HAND_OVER,
    "state-mismatch": COPY,
    "mode-leak": "set layer.trainable again after it",
}
BY_FRAMEWORK: Mapping[str, Mapping[str, str]] = {"keras": KERAS}


def in_its_words(reading: Reading, framework: str) -> Reading:
    said = BY_FRAMEWORK.get(framework, {}).get(reading.cause)
    return reading if said is None else replace(reading, advice=said)
