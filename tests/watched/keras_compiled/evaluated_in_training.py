"""Fault: a callback evaluates with training=True: its batches move the statistics (line 13)."""

import keras
from parts import compiled, images, network

x, y = images(256)
extra = images(128, seed=2)[0]


class Look(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        for at in range(0, len(extra), 32):
            model(extra[at : at + 32], training=True)


model = compiled(network())
model.fit(x, y, batch_size=32, epochs=3, verbose=0, callbacks=[Look()])
print(model.evaluate(*images(128, seed=2), verbose=0))
