"""The fault: training scales its images, evaluation does not."""

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
    train_step(net, optimiser, x, y)
net.eval()
with torch.no_grad():
    for x, _ in batches(10, seed=2):
        net(64 * x + 128)  # the fault
