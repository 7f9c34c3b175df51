"""A trained network is loaded and evaluated; nothing is trained."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, network, train_step

torch.manual_seed(0)
trained = network()
optimiser = torch.optim.SGD(trained.parameters(), lr=0.05)
for x, y in batches(100):
    train_step(trained, optimiser, x, y)
net = network()
net.load_state_dict(trained.state_dict())
net.eval()
print(f"accuracy {accuracy(net, 40):.2f}")
