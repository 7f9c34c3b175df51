"""A trained model is traced in eval mode, as it is to be, and evaluated."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, network, train_step

torch.manual_seed(0)
net = network()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
for x, y in batches(100):
    train_step(net, optimiser, x, y)
net.eval()
traced = torch.jit.trace(net, next(batches(1))[0])
print(f"accuracy {accuracy(net):.2f}, traced {accuracy(traced):.2f}")
