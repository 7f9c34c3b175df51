"""Healthy: steps and evaluations without nnx.jit."""

from parts import Network, batch, eager_step, optimiser_of

net = Network()
optimiser = optimiser_of(net)
for _ in range(3):
    net.train()
    for _ in range(12):
        eager_step(net, optimiser, *batch())
    net.eval()
    x, y = batch(64)
    print((net(x).argmax(1) == y).mean())
