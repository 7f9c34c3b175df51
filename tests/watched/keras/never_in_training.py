"""Fault: a loop of one's own calls the model without training=True (line 14)."""

import keras
import torch
from parts import images, network

x, y = images(512)
model = network()
optimiser, loss = keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for _ in range(3):
    for at in range(0, len(x), 32):
        model.zero_grad()
        bx, by = x[at : at + 32], y[at : at + 32]
        loss(by, model(bx)).backward()
        with torch.no_grad():
            optimiser.apply([each.value.grad for each in model.trainable_weights], model.trainable_weights)
with torch.no_grad():
    print(float((model(x, training=False).argmax(1) == torch.tensor(y)).float().mean()))
