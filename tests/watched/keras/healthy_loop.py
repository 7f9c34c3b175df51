"""Healthy: a loop of one's own on PyTorch's tensors, with training=True where it trains."""

import keras
import torch
from parts import images, network

x, y = images(512)
model = network()
optimiser, loss = keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for epoch in range(4):
    for at in range(0, len(x), 32):
        model.zero_grad()
        loss(y[at : at + 32], model(x[at : at + 32], training=True)).backward()
        with torch.no_grad():
            optimiser.apply([each.value.grad for each in model.trainable_weights], model.trainable_weights)
    with torch.no_grad():
        print(epoch, float((model(x, training=False).argmax(1) == torch.tensor(y)).float().mean()))
