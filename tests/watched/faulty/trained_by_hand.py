"""The fault: accuracy() calls eval() and nobody calls train() again. The weights are moved by hand."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
net = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
truth = torch.randn(5)


def batch(size=32):
    x = torch.randn(size, 5) * 2 + 1
    return x, (x @ truth > truth.sum()).long()


def sgd(params, lr):
    with torch.no_grad():
        for p in params:
            p.sub_(lr * p.grad)
            p.grad = None


def accuracy():
    net.eval()  # the fault
    with torch.no_grad():
        x, y = batch(200)
        return (net(x).argmax(1) == y).float().mean().item()


net.train()
for _ in range(4):
    for _ in range(25):
        x, y = batch()
        nn.functional.cross_entropy(net(x), y).backward()
        sgd(net.parameters(), 0.1)
    print(f"accuracy {accuracy():.2f}")
