"""The fault: from step 60 on the data holds a NaN; it stays in the running statistics for ever."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import batches, network, train_step

torch.manual_seed(0)
net = network()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
net.train()
for step, (x, y) in enumerate(batches(120)):
    if step == 60:
        x[0, 0, 0, 0] = float("nan")  # the fault
    train_step(net, optimiser, x, y)
