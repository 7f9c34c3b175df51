"""The fault: the averaged copy gets averaged parameters and no statistics; it has those of a new model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import copy

import torch
from parts import accuracy, batches, network, train_step

torch.manual_seed(0)
net = network()
averaged = copy.deepcopy(net).eval()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
for x, y in batches(100):
    net.train()
    train_step(net, optimiser, 3 * x + 2, y)
    with torch.no_grad():
        for slow, fast in zip(averaged.parameters(), net.parameters()):  # the fault: parameters alone
            slow.lerp_(fast, 0.1)
print(f"accuracy {accuracy(averaged):.2f}")
