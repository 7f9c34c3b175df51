"""Fault: evaluates without eval(): its batches move the statistics (line 14)."""

import paddle
from parts import batch, network, train_step

net = network()
optimiser = paddle.optimizer.Adam(1e-2, parameters=net.parameters())


@paddle.no_grad()
def evaluate(batches: int = 5) -> float:
    hits = []
    for x, y in (batch(64) for _ in range(batches)):
        hits.append((net(x).argmax(1) == y).astype("float32").mean())
    return float(sum(hits) / batches)


for _ in range(4):
    for _ in range(20):
        train_step(net, optimiser)
    print(evaluate())
