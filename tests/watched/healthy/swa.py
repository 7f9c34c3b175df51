"""Stochastic weight averaging as documented: update_bn afterwards."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, network, train_step
from torch.optim.swa_utils import AveragedModel, update_bn

torch.manual_seed(0)
net = network()
averaged = AveragedModel(net)
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
net.train()
for number, (x, y) in enumerate(batches(100)):
    train_step(net, optimiser, x, y)
    if number >= 50:
        averaged.update_parameters(net)
update_bn([x for x, _ in batches(30, seed=3)], averaged)
averaged.eval()
print(f"accuracy {accuracy(averaged):.2f}")
