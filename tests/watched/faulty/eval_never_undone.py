"""The fault: evaluate() calls eval() and nobody calls train() again; then statistics stand still."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, network, train_step


def evaluate(net):
    net.eval()  # the fault: nothing undoes this
    return accuracy(net)


torch.manual_seed(0)
net = network()
net.train()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
for epoch in range(4):
    for x, y in batches(40, seed=10 + epoch):
        train_step(net, optimiser, x, y)
    print(f"epoch {epoch}: accuracy {evaluate(net):.2f}")
