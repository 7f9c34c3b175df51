"""Pairs of files as a person has them: ``python torch_pairs.py FOLDER``, in a Python that has torch.

before.pt and what became of it: folded by PyTorch's own function, averaged, trained on, reset."""

import copy
import sys
from pathlib import Path

import torch
from torch import nn

FOLDER = Path(sys.argv[1])


class Net(nn.Module):
    def __init__(self, eps=1e-5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8, eps=eps)
        self.conv2 = nn.Conv2d(8, 8, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(8, eps=eps)
        self.up = nn.ConvTranspose2d(8, 6, 2)
        self.bn3 = nn.BatchNorm2d(6, eps=eps)
        self.fc = nn.Linear(6, 5)
        self.bn4 = nn.BatchNorm1d(5, eps=eps)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = self.bn3(self.up(x)).relu()
        return self.bn4(self.fc(x.mean((2, 3))))


def train(net, steps):
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    net.train()
    for _ in range(steps):
        net(torch.randn(16, 3, 10, 10) * 2 + 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def fold(net):
    net = copy.deepcopy(net).eval()
    for conv, bn in (("conv1", "bn1"), ("conv2", "bn2"), ("fc", "bn4")):
        fuse = nn.utils.fusion.fuse_linear_bn_eval if conv == "fc" else nn.utils.fusion.fuse_conv_bn_eval
        setattr(net, conv, fuse(getattr(net, conv), getattr(net, bn)))
        setattr(net, bn, nn.Identity())
    net.up = nn.utils.fusion.fuse_conv_bn_eval(net.up, net.bn3, transpose=True)
    net.bn3 = nn.Identity()
    return net


def save(name, net):
    torch.save(net.state_dict(), str(FOLDER / name))


torch.manual_seed(0)
net = Net()
train(net, 20)
with torch.no_grad():
    for bn in (net.bn1, net.bn2, net.bn3, net.bn4):
        bn.weight.uniform_(0.5, 1.5)
        bn.bias.uniform_(-0.5, 0.5)
save("before.pt", net)
torch.save(net, str(FOLDER / "whole.pt"))
save("folded.pt", fold(net))
other = Net(eps=1e-3)
other.load_state_dict(net.state_dict())
save("folded-eps.pt", fold(other))
new = copy.deepcopy(net)
for bn in (new.bn1, new.bn2, new.bn3, new.bn4):
    bn.reset_running_stats()
save("reset.pt", new)
save("folded-start.pt", fold(new))
bare = {key: value for key, value in net.state_dict().items() if not key.startswith("bn")}
torch.save(bare, str(FOLDER / "bare.pt"))
average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
ema = copy.deepcopy(average.module)
save("ema-first.pt", ema)
frozen = copy.deepcopy(net)
for parameter in frozen.parameters():
    parameter.requires_grad_(False)
frozen.train()
for _ in range(30):
    frozen(torch.randn(16, 3, 10, 10) * 2 + 1)
save("statistics-moved.pt", frozen)
later = copy.deepcopy(net)
train(later, 7)
save("later.pt", later)
save("half.pt", copy.deepcopy(net).half())
