"""Training in which something unusual happens now and then, at steps of which only counts are kept."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
torch.set_num_threads(1)


class Saving(nn.BatchNorm1d):
    """A layer of one's own that does something before it normalises."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state_dict()
        return super().forward(x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.second = nn.BatchNorm1d(8, affine=False)
        self.third = nn.BatchNorm1d(8)
        self.fourth, self.frozen = Saving(8), nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)
        self.step = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.step == 100:  # from then on inputs count as gone, and every step is looked at as it comes
            raise ArithmeticError("in the middle")
        if self.step == 57:
            self.second.reset_running_stats()
        if self.step == 40:
            self.second.running_mean.mul_(0.5)
        if self.step == 59:
            self.third.eval()
        if self.step == 50:
            self.third.training = False
        with torch.set_grad_enabled(self.step != 61):
            x = self.second(x)
        for _ in range(2 if self.step in (63, 64) else 1):
            x = self.third(x) if self.step != 66 else checkpoint(self.third, x, use_reentrant=False)
        return self.last(self.fourth(self.frozen(x)))


net, ema = Network(), Network()
optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(106):
    net.train()
    net.frozen.eval()
    net.step = step
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    if step == 52:
        x, y = x[:9], y[:9]
    if step == 68:
        x = x * 1e30
    if step == 94:
        net.third.running_var += 1.0
    if step == 92:
        net.third.weight.requires_grad = False
    if step == 74:
        net.load_state_dict(ema.state_dict())
    if step == 76:
        net.eval()
        net(x)
        net.train()
    if step == 78:
        net.third(torch.randn(4, 8))
    if step == 80:
        net(x)
    if step == 82:
        net.second.running_mean = torch.zeros(8)
    if step == 84:
        net.third.momentum = 0.0
    if step == 86:
        x[0, 0] = float("nan")
    optimiser.zero_grad()
    try:
        loss = cross_entropy(net(x), y)
    except ArithmeticError:
        continue
    if loss.requires_grad:
        loss.backward()
    optimiser.step()
