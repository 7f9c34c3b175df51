"""torch.compile, eager backend: the same training through a compiled model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, network, train_step

torch.manual_seed(0)
net = network()
fast = torch.compile(net, backend="eager") if hasattr(torch, "compile") else net
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
fast.train()
for x, y in batches(60):
    train_step(fast, optimiser, x, y)
fast.eval()
print(f"accuracy {accuracy(fast):.2f}")
