"""The fault: averaged weights are evaluated with the running statistics of the latest ones; update_bn is not called."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, network, train_step

torch.manual_seed(0)
net = network()
averaged = torch.optim.swa_utils.AveragedModel(net)
optimiser = torch.optim.SGD(net.parameters(), lr=4.0)
for x, y in batches(24):
    net.train()
    train_step(net, optimiser, x, y)
    averaged.update_parameters(net)
print(f"accuracy {accuracy(averaged.eval()):.2f}")
