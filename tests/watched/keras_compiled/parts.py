"""What these scripts share: a small network, and images whose brightness decides their class. KERAS_BACKEND is JAX or
TensorFlow."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

keras.utils.set_random_seed(0)


def network(momentum: float = 0.9) -> keras.Model:
    x = start = keras.Input((8, 8, 3))
    for _ in range(2):
        x = layers.Conv2D(8, 3, use_bias=False)(x)
        x = layers.BatchNormalization(momentum=momentum)(x)
        x = layers.ReLU()(x)
    return keras.Model(start, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def images(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    x = rng.normal(size=(count, 8, 8, 3)) + 0.6 * y[:, None, None, None]
    return x.astype("float32"), y


def compiled(model: keras.Model, rate: float = 0.05) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(rate), loss=loss, metrics=["accuracy"])
    return model
