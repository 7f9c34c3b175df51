"""The fault: the model was traced in training mode, and runs in it for good: each evaluation moves the statistics."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, network, train_step

torch.manual_seed(0)
net = torch.jit.trace(network(), next(batches(1))[0], check_trace=False)  # the fault
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
for _ in range(4):
    net.train()
    for x, y in batches(20):
        train_step(net, optimiser, x, y)
    net.eval()
    print(f"accuracy {accuracy(net):.2f}")
