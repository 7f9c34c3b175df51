"""The fault: the model was traced in eval mode before any training, and train() does not change what a trace does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, network, train_step

torch.manual_seed(0)
net = torch.jit.trace(network().eval(), next(batches(1))[0])  # the fault
net.train()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
for x, y in batches(60):
    train_step(net, optimiser, x, y)
net.eval()
print(f"accuracy {accuracy(net):.2f}")
