"""Healthy: a scripted model trains and is evaluated in turn, is saved, loaded and evaluated."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, network, train_step

torch.manual_seed(0)
net = torch.jit.script(network())
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
for epoch in range(3):
    net.train()
    for x, y in batches(20, seed=10 + epoch):
        train_step(net, optimiser, x, y)
    net.eval()
    print(accuracy(net, 3))
with tempfile.TemporaryDirectory() as folder:
    net.save(folder + "/net.pt")
    again = torch.jit.load(folder + "/net.pt")
print(accuracy(again, 3))
