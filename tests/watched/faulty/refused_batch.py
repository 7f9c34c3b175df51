"""The fault: 33 images in batches of 8 leave one, and behind a global pool that is one value per channel. The script
goes on without it."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.out = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.out(torch.cat([x, self.pool(x).expand_as(x)], 1))


net = Net()
optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
images = torch.randn(33, 3, 8, 8)
for _ in range(3):
    for x in images.split(8):
        try:
            loss = net(x).pow(2).mean()  # the fault: no drop_last
        except ValueError as error:
            print(error)
            continue
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
