"""The fault: momentum=0.0, which in PyTorch means that the running statistics never move."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, network, train_step

torch.manual_seed(0)
net = network()
for layer in (net[1], net[4]):
    layer.momentum = 0.0  # the fault
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
net.train()
for x, y in batches(100):
    train_step(net, optimiser, x, y)
net.eval()
print(f"accuracy {accuracy(net):.2f}")
