"""Healthy: fit() with validation, evaluate(), predict(), and weights that are saved and loaded."""

import tempfile
from pathlib import Path

from parts import compiled, images, network

x, y = images(512)
model = compiled(network())
model.fit(x, y, batch_size=32, epochs=4, verbose=0, validation_data=images(128, seed=2))
print(model.evaluate(*images(128, seed=2), verbose=0))
with tempfile.TemporaryDirectory() as folder:
    model.save_weights(Path(folder) / "all.weights.h5")
    again = compiled(network())
    again.load_weights(Path(folder) / "all.weights.h5")
    print(again.evaluate(*images(128, seed=2), verbose=0))
print(model.predict(x[:8], verbose=0).shape)
