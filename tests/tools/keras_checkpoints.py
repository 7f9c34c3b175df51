"""Checkpoints as Keras writes them: ``python keras_checkpoints.py FOLDER``, with Keras 3 or tf_keras."""

import os
import sys
from pathlib import Path

import numpy as np

try:
    import tf_keras as keras
except ImportError:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

FOLDER = Path(sys.argv[1])
inner = keras.Sequential([keras.layers.Conv2D(2, 3), keras.layers.BatchNormalization(scale=False, name="inner_bn")])
net = keras.Sequential(
    [
        keras.layers.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, name="conv"),
        keras.layers.BatchNormalization(name="bn", epsilon=2e-3, momentum=0.9),
        keras.layers.LayerNormalization(name="ln"),
        inner,
        keras.layers.Normalization(name="pre"),
    ]
)
net.compile("adam", "mse")
net.fit(np.ones((4, 8, 8, 3), "float32"), np.zeros((4, 4, 4, 2), "float32"), verbose=0)
values = [[1.0, 0.5, 0.25, 2.0], [0.125] * 4, [1.0, 2.0, 3.0, 4.0], [0.5, 1.5, 2.5, 3.5]]
net.get_layer("bn").set_weights([np.array(value, "float32") for value in values])
net.get_layer(inner.name).get_layer("inner_bn").set_weights(
    [np.array(value, "float32") for value in ([0.5, 0.5], [5.0, 6.0], [7.0, 8.0])]
)
if keras.__name__ == "tf_keras":
    net.save_weights(str(FOLDER / "tf_keras.weights.h5"), save_format="h5")
    net.save_weights(str(FOLDER / "tf_keras_weights.h5"))
    net.save(str(FOLDER / "tf_keras.h5"))
    net.save(str(FOLDER / "tf_keras.keras"))
else:
    net.save(str(FOLDER / "keras3.keras"))
    net.save_weights(str(FOLDER / "keras3.weights.h5"))
    net.save(str(FOLDER / "keras3.h5"))
