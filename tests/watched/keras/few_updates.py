"""Fault: eight steps at Keras's own momentum of 0.99, then an evaluation."""

from parts import compiled, images, network

x, y = images(256)
model = compiled(network(momentum=0.99))
model.fit(x, y, batch_size=32, epochs=1, verbose=0)
print(model.evaluate(*images(256, seed=2), verbose=0))
