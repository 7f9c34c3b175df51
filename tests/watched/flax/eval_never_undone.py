"""Fault: evaluate() calls eval(), and nobody calls train() again (line 10)."""

from parts import Network, accuracy, batch, optimiser_of, train_step

net = Network()
optimiser = optimiser_of(net)


def evaluate() -> float:
    net.eval()
    return float(accuracy(net, *batch(64)))


for _ in range(4):
    for _ in range(20):
        train_step(net, optimiser, *batch())
    print(evaluate())
