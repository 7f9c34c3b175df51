"""The fault: BatchNorm layers in a plain Python list; eval(), parameters() and state_dict() do not reach them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from parts import accuracy, batches, train_step
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)])
        self.norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(8)]  # the fault: no ModuleList
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms):
            x = torch.relu(norm(conv(x)))
        return self.head(x.mean((2, 3)))


torch.manual_seed(0)
net = Net()
optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
net.train()
for x, y in batches(100):
    train_step(net, optimiser, x, y)
net.eval()
print(f"accuracy {accuracy(net):.2f}")
