"""Functions that people call with their Keras model, for test_keras_own.py."""

import keras
from keras_layers import build  # noqa: F401 - what the scenario plays


def summarise(model):
    return model.count_params()


def freeze(model):
    for layer in model.layers:
        layer.trainable = False


def spoil(model):
    model.get_layer("bn1").moving_variance.assign([4.0, 9.0, 1.0, 2.0])


def clone(model):
    """The weights are forgotten."""
    return keras.models.clone_model(model)


def copied(model):
    new = keras.models.clone_model(model)
    new.set_weights(model.get_weights())
    return new


def crash(model):
    raise RuntimeError("no")
