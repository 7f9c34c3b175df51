"""The teacher runs in training mode without gradients in each step, and keeps statistics of its own."""

import copy

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
student = nn.Sequential(nn.Linear(5, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
teacher = copy.deepcopy(student)
for p in teacher.parameters():
    p.detach_()
optimiser = torch.optim.Adam(student.parameters(), 1e-2)
truth = torch.randn(5)


def batch(size=32):
    x = torch.randn(size, 5)
    return x, (x @ truth > 0).long()


for _ in range(4):
    student.train()
    teacher.train()
    for _ in range(25):
        (x, y), free = batch(), torch.randn(32, 5)
        with torch.no_grad():
            wanted = teacher(free + 0.1 * torch.randn_like(free)).softmax(1)
        out = student(torch.cat([x, free]))
        loss = nn.functional.cross_entropy(out[:32], y) + (out[32:].softmax(1) - wanted).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for mine, its in zip(student.parameters(), teacher.parameters()):
            its.data.mul_(0.95).add_(mine.data, alpha=0.05)
    student.eval()
    teacher.eval()
    with torch.no_grad():
        x, y = batch(300)
        print([round((net(x).argmax(1) == y).float().mean().item(), 2) for net in (student, teacher)])
