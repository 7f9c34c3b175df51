"""Other tools' words for what a scenario file says, answered with the word that is right here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# Word → (key, what a reader who comes from that word has to know).
KEYS: Mapping[str, tuple[str, str]] = {
    "momentum": ("batch_weight", "the weight of the new batch: PyTorch's momentum, 1 − Keras's"),
    "decay": ("batch_weight", "the weight of the new batch: 1 − the decay of the old average"),
    "decay_rate": ("batch_weight", "the weight of the new batch: 1 − the decay of the old average"),
    "epsilon": ("eps", ""),
    "num_features": ("channels", "it follows from the input where it is left out"),
    "features": ("channels", "it follows from the input where it is left out"),
    "num_channels": ("channels", "it follows from the input where it is left out"),
    "center": ("affine", "gamma and beta together"),
    "scale": ("affine", "gamma and beta together"),
    "elementwise_affine": ("affine", ""),
    "track_stats": ("track_running_stats", ""),
    "weight": ("gamma", ""),
    "moving_mean": ("running_mean", ""),
    "moving_variance": ("running_var", ""),
    "running_variance": ("running_var", ""),
    "size": ("shape", "the batch axis first"),
    "batch_size": ("shape", "the batch axis first"),
    "input_shape": ("shape", "the batch axis first"),
    "steps": ("repeat", "how often `events` are played"),
    "epochs": ("repeat", "how often `events` are played"),
    "iterations": ("repeat", "how often `events` are played"),
    "description": ("why", ""),
    "layer": ("layers", "a list of tables, [[network.layers]]"),
}
EVENTS: Mapping[str, tuple[str, str]] = {
    "save": ("reload", "the state is saved and loaded into a fresh network"),
    "load": ("reload", "the state is saved and loaded into a fresh network"),
    "checkpoint": ("reload", "to save and load; checkpointed_forward recomputes in backward"),
    "train": ("train_forward", "set_mode changes the mode without a forward"),
    "training": ("train_forward", "set_mode changes the mode without a forward"),
    "eval": ("eval_forward", "set_mode changes the mode without a forward"),
    "evaluate": ("eval_forward", ""),
    "inference": ("eval_forward", ""),
    "predict": ("eval_forward", ""),
    "no_grad": ("no_grad_forward", ""),
    "backprop": ("backward", ""),
    "export": ("export_onnx", ""),
    "onnx": ("export_onnx", ""),
    "copy": ("update_copy", "with `copied` in [network]"),
    "ema": ("update_copy", "with `copied` in [network]"),
    "wait": ("flush", ""),
}
BY_KIND: Mapping[str, Mapping[str, tuple[str, str]]] = {"key": KEYS, "event": EVENTS}


def answer(what: str, word: str, allowed: list[str], tables_with: Callable[[str], list[str]]) -> str:
    """``bncheck calls it batch_weight: …``, and where it belongs if that is another table; "" where the word says
    nothing. ``tables_with`` names the tables that have a key."""
    right, told = BY_KIND.get(what, {}).get(word.lower(), (word if what == "key" else "", ""))
    homes = [] if what != "key" or right in allowed else tables_with(right)
    if not right or (right == word and not homes) or (what == "key" and right not in allowed and not homes):
        return ""
    places = " or ".join(homes[:2])
    if right == word:
        return f'"{word}" belongs to {places}'
    return f'bncheck calls it "{right}"' + (f", in {places}" if homes else "") + (f": {told}" if told else "")
