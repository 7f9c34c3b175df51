"""Fault: evaluates without eval(): its batches move the statistics (line 12)."""

from parts import Network, accuracy, batch, optimiser_of, train_step

net = Network()
optimiser = optimiser_of(net)


def evaluate(batches: int = 5) -> float:
    hits = 0.0
    for x, y in (batch(64) for _ in range(batches)):
        hits += float(accuracy(net, x, y))
    return hits / batches


for _ in range(4):
    for _ in range(20):
        train_step(net, optimiser, *batch())
    print(evaluate())
