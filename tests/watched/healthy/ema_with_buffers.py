"""An averaged copy that is given the statistics too, and is evaluated."""

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
    train_step(net, optimiser, x, y)
    with torch.no_grad():
        for slow, fast in zip(averaged.parameters(), net.parameters()):
            slow.lerp_(fast, 0.1)
        for slow, fast in zip(averaged.buffers(), net.buffers()):
            slow.copy_(fast)
print(f"accuracy {accuracy(averaged):.2f}")
