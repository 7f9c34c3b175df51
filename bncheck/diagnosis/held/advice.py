"""What to do about a function that changed a model, in the words of its framework; readings speak of PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bncheck.diagnosis.held.reading import Reading

# What decides whether a layer's parameters are trained.
SWITCH: Mapping[str, str] = {
    "torch": "requires_grad",
    "keras": "layer.trainable",
    "paddle": "stop_gradient",
    "mxnet": "grad_req",
}
COPY = "give it a copy of the model: new = keras.models.clone_model(model); new.set_weights(model.get_weights())"
HAND_OVER = "hand the weights over after it: new.set_weights(model.get_weights())"
KERAS: Mapping[str, str] = {
    "update-count": f"call the model with training=False in it, or {COPY}",
    "stale-state": HAND_OVER,
    "state-mismatch": COPY,
    "mode-leak": "set layer.trainable again after it",
}
PADDLE: Mapping[str, str] = {
    "update-count": "call model.eval() in it before the forward, or give it copy.deepcopy(model)",
    "stale-state": "hand the state over after it: new.set_state_dict(model.state_dict())",
    "state-mismatch": "give it a copy of the model: copy.deepcopy(model)",
    "mode-leak": "call model.train() after it, and set stop_gradient of the parameters again",
}
FLAX: Mapping[str, str] = {
    "update-count": "call model.eval() in it before the forward, or give it nnx.clone(model)",
    "stale-state": "hand the state over after it: nnx.update(new, nnx.state(model))",
    "state-mismatch": "give it a copy of the model: nnx.clone(model)",
    "mode-leak": "call model.train() after it",
}
MXNET: Mapping[str, str] = {
    "update-count": "run the forward in it outside of autograd.record() and autograd.train_mode()",
    "stale-state": "hand the parameters over after it: model.save_parameters(path), new.load_parameters(path)",
    "state-mismatch": "give it a model of its own: model.save_parameters(path), new.load_parameters(path)",
    "mode-leak": "set grad_req of the parameters again after it",
}
BY_FRAMEWORK: Mapping[str, Mapping[str, str]] = {"keras": KERAS, "paddle": PADDLE, "flax": FLAX, "mxnet": MXNET}


def in_its_words(reading: Reading, framework: str) -> Reading:
    if framework not in BY_FRAMEWORK:
        return reading
    title = reading.title.replace(", with no training forward that a counter shows", "")  # they have no counters
    return replace(reading, title=title, advice=BY_FRAMEWORK[framework].get(reading.cause, reading.advice))
