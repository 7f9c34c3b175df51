"""Train, evaluate after each epoch, train again, save: everything as it should be."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import io

import torch
from parts import accuracy, batches, network, train_step

torch.manual_seed(0)
net = network()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
for epoch in range(4):
    net.train()
    for x, y in batches(40, seed=10 + epoch):
        train_step(net, optimiser, x, y)
    net.eval()
    print(f"epoch {epoch}: accuracy {accuracy(net):.2f}")
torch.save(net.state_dict(), io.BytesIO())
