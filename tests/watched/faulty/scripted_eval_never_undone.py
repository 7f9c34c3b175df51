"""The fault: a scripted model is put into eval mode by evaluate(), and nobody calls train() again."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, network, train_step


def evaluate(net):
    net.eval()  # the fault: nothing undoes this
    return accuracy(net, 2)


torch.manual_seed(0)
net = torch.jit.script(network())
net.train()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
for epoch in range(3):
    for x, y in batches(10, seed=10 + epoch):
        train_step(net, optimiser, x, y)
    print(f"epoch {epoch}: accuracy {evaluate(net):.2f}")
