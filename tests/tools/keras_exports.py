"""Keras models and what TensorFlow makes of them: ``python keras_exports.py FOLDER`` with TensorFlow and Keras 3."""

import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
import numpy as np
import tensorflow as tf


def build(eps=1e-3):
    given = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=False)(given)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(epsilon=eps, name="first")(x))
    x = keras.layers.ReLU()(keras.layers.Conv2D(5, 3)(x))
    x = keras.layers.BatchNormalization(epsilon=eps, name="second")(x)  # behind an activation: a product and a sum
    return keras.Model(given, keras.layers.GlobalAveragePooling2D()(x))


def save(model, path, **settings):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    for name, value in settings.items():
        setattr(converter, name, value)
    pathlib.Path(path + ".tflite").write_bytes(converter.convert())


def main(folder):
    keras.utils.set_random_seed(0)
    os.chdir(folder)
    model = build()
    model.compile("sgd", "mse")
    dice = np.random.RandomState(0)
    model.fit(0.1 * dice.randn(64, 8, 8, 3), dice.randn(64, 5), batch_size=16, epochs=3, verbose=0)
    model.save("model.keras")
    model.save("model.h5")
    save(model, "model")
    other = build(1e-5)
    other.set_weights(model.get_weights())
    save(other, "eps")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
            layer.moving_variance.assign(np.ones(layer.moving_variance.shape))
    save(model, "start")
    given = keras.Input((4,))
    keras.Model(given, keras.layers.Lambda(lambda x: x + 1)(given)).save("code.keras")


if __name__ == "__main__":
    main(sys.argv[1])
