"""Validation batches of one class each, single images, and training images that are augmented."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import batches, network, train_step

torch.manual_seed(0)
net = network()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
net.train()
for x, y in batches(100):
    train_step(net, optimiser, x * (1 + 0.4 * torch.randn(len(x), 1, 1, 1)) + 0.3 * torch.randn_like(x), y)
net.eval()
with torch.no_grad():
    for x, y in batches(6, seed=2):
        net(x[:1])
        for kind in (0, 1):
            net(x[y == kind])
