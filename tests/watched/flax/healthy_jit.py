"""Healthy: steps and evaluations under nnx.jit, a short last batch, a view for evaluation, state that is copied."""

from flax import nnx
from parts import Network, accuracy, batch, optimiser_of, train_step

net = Network()
optimiser = optimiser_of(net)
for _ in range(4):
    net.train()
    for size in [16] * 19 + [8]:
        train_step(net, optimiser, *batch(size))
    net.eval()
    print(accuracy(net, *batch(64)))
again = Network()
nnx.update(again, nnx.state(net))
again.eval()
print(accuracy(again, *batch(64)))
