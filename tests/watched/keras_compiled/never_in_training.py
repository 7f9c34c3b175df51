"""Fault: the model calls its layer with training=False, whatever fit() asks for (line 22 calls it first)."""

import keras
from keras import layers
from parts import compiled, images


class Network(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.conv = layers.Conv2D(8, 3, use_bias=False)
        self.norm = layers.BatchNormalization(momentum=0.9)
        self.head = layers.Dense(2)

    def call(self, x: object, training: bool = False) -> object:
        x = self.norm(self.conv(x), training=False)
        return self.head(keras.ops.mean(keras.ops.relu(x), axis=(1, 2)))


x, y = images(256)
model = compiled(Network())
model(x[:2])


model.fit(x, y, batch_size=32, epochs=3, verbose=0)
print(model.evaluate(*images(128, seed=2), verbose=0))
