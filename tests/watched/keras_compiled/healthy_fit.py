"""Healthy: fit() with a short last batch and validation, evaluate(), predict(), weights that are saved and loaded, and
a base that is frozen and compiled again."""

import tempfile
from pathlib import Path

import keras
from parts import compiled, images, network

x, y = images(272)
model = compiled(network())
model.fit(x, y, batch_size=32, epochs=4, verbose=0, validation_data=images(128, seed=2))
with tempfile.TemporaryDirectory() as folder:
    model.save_weights(Path(folder) / "all.weights.h5")
    again = compiled(network())
    again.load_weights(Path(folder) / "all.weights.h5")
    print(again.evaluate(*images(128, seed=2), verbose=0), model.predict(x[:8], verbose=0).shape)
model.trainable = False
start = keras.Input((8, 8, 3))
head = compiled(keras.Model(start, keras.layers.Dense(2)(model(start))))
head.fit(x, y, batch_size=32, epochs=2, verbose=0)
print(head.evaluate(*images(128, seed=2), verbose=0))
