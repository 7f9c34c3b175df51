"""Fault: evaluate() calls eval(), and nobody calls train() again (line 12)."""

import paddle
from parts import accuracy, network, train_step

net = network()
optimiser = paddle.optimizer.Momentum(0.01, parameters=net.parameters())


def evaluate() -> float:
    """The line is the next one."""
    net.eval()
    return accuracy(net)


for _ in range(4):
    for _ in range(20):
        train_step(net, optimiser)
    print(evaluate())
