"""The fault: one BatchNorm layer at two places of the network; its statistics are a mixture of two distributions."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, train_step
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.norm(4 * self.second(x) + 3))  # the fault: the same layer again
        return self.head(x.mean((2, 3)))


torch.manual_seed(0)
net = Net()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
net.train()
for x, y in batches(100):
    train_step(net, optimiser, x, y)
net.eval()
print(f"accuracy {accuracy(net):.2f}")
