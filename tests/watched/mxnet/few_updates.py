"""Fault: eight steps at a momentum of 0.99, then an evaluation."""

from parts import batch, network, train_step, trainer_of

net = network(momentum=0.99)
trainer = trainer_of(net)
for _ in range(8):
    x, y = batch()
    train_step(net, trainer, 3 * x + 2, y)
x, y = batch(64)
print((net(3 * x + 2).argmax(1) == y).mean().asscalar())
