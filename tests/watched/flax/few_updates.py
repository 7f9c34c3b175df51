"""Fault: twelve eager steps at Flax's own momentum of 0.99, then an evaluation."""

from parts import Network, batch, eager_step, optimiser_of

net = Network(momentum=0.99)
optimiser = optimiser_of(net)
for _ in range(12):
    x, y = batch()
    eager_step(net, optimiser, 3 * x + 2, y)
net.eval()
x, y = batch(64)
print((net(3 * x + 2).argmax(1) == y).mean())
