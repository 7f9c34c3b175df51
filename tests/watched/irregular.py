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


# One at every tenth step: what is remarkable is followed by some steps that are looked at whole.
EVENTS = (
    "nothing", "a write", "training is set", "a short batch", "a reset", "eval()", "twice", "twice again",
    "checkpointed", "a load", "evaluations", "one layer alone", "a forward without backward",
    "another buffer", "another storage", "momentum 0", "a type of its own",
    "a hook", "frozen", "from outside", "NaN", "without gradients", "an error",
)  # fmt: skip


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.second = nn.BatchNorm1d(8, affine=False)
        self.third = nn.BatchNorm1d(8)
        self.fourth, self.frozen = Saving(8), nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)
        self.event = ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        event = self.event
        x = self.first(x)
        if event == "an error":  # from then on inputs count as gone, and every step is looked at as it comes
            raise ArithmeticError("in the middle")
        if event == "a write":
            self.second.running_mean.mul_(0.5)
        if event == "a reset":
            self.second.reset_running_stats()
        if event == "eval()":
            self.third.eval()
        if event == "training is set":
            self.third.training = False
        if event == "a type of its own":
            x = x.bfloat16()
        with torch.set_grad_enabled(event != "without gradients"):
            x = self.second(x).float()
        for _ in range(2 if event.startswith("twice") else 1):
            x = self.third(x) if event != "checkpointed" else checkpoint(self.third, x, use_reentrant=False)
        return self.last(self.fourth(self.frozen(x)))


def meddle(module: nn.Module, given: object, out: object) -> None:
    module.running_mean.data.add_(1.0)


hook = None
net, ema = Network(), Network()
optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(10 * len(EVENTS) + 1):
    event = EVENTS[step // 10] if step % 10 == 0 and step // 10 < len(EVENTS) else ""
    net.train()
    net.frozen.eval()
    net.event = event
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    if event == "a short batch":
        x, y = x[:9], y[:9]
    if event == "from outside":
        net.third.running_var += 1.0
    if event == "frozen":
        net.third.weight.requires_grad = net.third.bias.requires_grad = False
    if event == "a load":
        net.load_state_dict(ema.state_dict())
    if event == "evaluations":
        net.eval()
        for _ in range(12):
            net(x)
        net.train()
    if event == "one layer alone":
        net.third(torch.randn(4, 8))
    if event == "a forward without backward":
        net(x)
    if event == "another buffer":
        net.second.running_mean = torch.zeros(8)
    if event == "another storage":
        net.second.running_var.data = torch.full((8,), 2.0)
    if event == "momentum 0":
        net.third.momentum = 0.0
    if event == "a hook":
        hook = net.second.register_forward_hook(meddle)
    elif hook is not None:
        hook.remove()
    if event == "NaN":
        x[0, 0] = float("nan")
    optimiser.zero_grad()
    try:
        loss = cross_entropy(net(x), y)
    except ArithmeticError:
        continue
    if loss.requires_grad:
        loss.backward()
    optimiser.step()

# Others than the one that NaN has spoilt: an infinite mean, forwards that keep no input, an error in the middle of the
# beats of a network, and one as the last of all.
single, other = nn.Sequential(nn.BatchNorm1d(8)), Network()
for step in range(40):
    alone = torch.randn(4, 8) if step != 30 else torch.full((4, 8), -float("inf"))
    single(alone)
    with torch.no_grad():
        other(torch.randn(16, 6) if step != 37 else torch.full((16, 6), float("nan")))
    optimiser.step()
for network, wrong in ((ema, 12), (Network(), 19)):
    for step in range(20):
        network.event = "an error" if step == wrong else ""
        try:
            network(torch.randn(16, 6)).sum().backward()
            optimiser.step()
        except ArithmeticError:
            continue
