"""What people do with a layer besides calling it, on layers that each get one thing wrong."""

from __future__ import annotations

import pytest
from torch_cells import Cell, cases_of, play_cells, renamed

BASE = """
import torch
from torch import nn

class Good(nn.Module):
    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def statistics(self, x):
        if not self.training:
            return self.running_mean, self.running_var
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        self.update(mean, var, x.numel() // x.shape[1])
        return mean, var

    @torch.no_grad()
    def update(self, mean, var, n):
        self.running_mean += self.momentum * (mean - self.running_mean)
        self.running_var += self.momentum * (var * n / (n - 1) - self.running_var)

    def forward(self, x):
        mean, var = self.statistics(x)
        y = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + self.eps)
        return y * self.weight[:, None, None] + self.bias[:, None, None]
"""
# Class: (source after BASE, the action that shows it, words of the answer; "" = nothing is wrong).
LAYERS = {
    "Good": ("", "", ""),
    "Narrow": (
        "class Narrow(Good):\n    def forward(self, x):\n        return super().forward(x.float()).to(x.dtype)\n"
        "    def statistics(self, x):\n        return [each.float() for each in super().statistics(x)]\n",
        ".to(float64)", "computes with fewer digits than float64",
    ),
    "Attribute": (
        "class Attribute(Good):\n    def __init__(self, *a, **k):\n        super().__init__(*a, **k)\n"
        "        del self._buffers['running_mean']\n        self.running_mean = torch.zeros(4)\n",
        "save and load", "loses what it learned",
    ),
    "Stays": (
        "class Stays(Good):\n    def __init__(self, *a, **k):\n        super().__init__(*a, **k)\n"
        "        self.seen = torch.zeros(3)\n",
        ".to(float64)", "keeps seen in float32",
    ),
    "Leaky": (
        "class Leaky(Good):\n    def update(self, mean, var, n):\n"
        "        self.running_mean = 0.9 * self.running_mean + 0.1 * mean\n",
        "deepcopy", "raises RuntimeError: Only Tensors created explicitly",
    ),
    "Shared": (
        "class Shared(Good):\n    def __deepcopy__(self, memo):\n        import copy\n        return copy.copy(self)\n",
        "deepcopy", "the copy shares its buffers",
    ),
    "EvalMoves": (
        "class EvalMoves(Good):\n    def statistics(self, x):\n"
        "        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))\n        self.update(mean, var, 9)\n"
        "        return self.running_mean, self.running_var\n",
        "eval", "an eval forward moves running_mean, running_var",
    ),
    "StaysInTraining": (
        "class StaysInTraining(Good):\n    def train(self, mode=True):\n        return super().train(True)\n",
        "eval", "is still in training mode after eval()",
    ),
    "OnlyWithGrad": (
        "class OnlyWithGrad(Good):\n    def forward(self, x):\n        self.grad = torch.is_grad_enabled()\n"
        "        return super().forward(x)\n"
        "    def update(self, mean, var, n):\n        if self.grad:\n            super().update(mean, var, n)\n",
        "no_grad", "moves its statistics otherwise",
    ),
    "StartsAtZero": (
        "class StartsAtZero(Good):\n    def __init__(self, *a, **k):\n        super().__init__(*a, **k)\n"
        "        self.running_var.zero_()\n",
        "a new layer", "starts with running_var 0 instead of 1; the case sets them itself",
    ),
    "WorkedOut": (  # its mean is of no batch before the first: that is no state it starts with
        "class WorkedOut(Good):\n    def __init__(self, *a, **k):\n        super().__init__(*a, **k)\n"
        "        del self._buffers['running_mean']\n        self.register_buffer('total', torch.full((4,), 7.0))\n"
        "    @property\n    def running_mean(self):\n        return self.total * 1\n"
        "    def update(self, mean, var, n):\n        self.total = 0.9 * self.total + 0.1 * mean.detach()\n",
        "load_state_dict of the built-in layer", "lacks running_mean; adds total",
    ),
    "DrawsGamma": (  # each new one holds another gamma: that is said once, and of no conversion
        "class DrawsGamma(Good):\n    def __init__(self, *a, **k):\n        super().__init__(*a, **k)\n"
        "        nn.init.uniform_(self.weight, 0.2, 0.4)\n",
        "a new layer", "starts with gamma 0.",
    ),
    "Drops": (
        "class Drops(Good):\n    def forward(self, x):\n"
        "        return nn.functional.dropout(super().forward(x), 0.5, self.training)\n",
        "", "",
    ),
    "Noisy": (
        "class Noisy(Good):\n    def forward(self, x):\n        y = super().forward(x)\n"
        "        return y + 0.1 * torch.randn_like(y) if self.training else y\n",
        ".to(float64)", "unavailable: it draws random numbers, other ones in each dtype",
    ),
    "NoEps": (  # a rule that differs is no matter of digits
        "class NoEps(Good):\n    def forward(self, x):\n        y = super().forward(x)\n"
        "        return y + 2e-5 * torch.tanh(y)\n",
        "", "",
    ),
    "NoisyAlways": (
        "class NoisyAlways(Good):\n    def forward(self, x):\n        y = super().forward(x)\n"
        "        return y + 0.1 * torch.randn_like(y)\n",
        "eval", "it draws random numbers in eval: the same batch gives another output each time",
    ),
    "OtherNames": (
        "class OtherNames(Good):\n    def __init__(self, *a, **k):\n        super().__init__(*a, **k)\n"
        "        del self._buffers['num_batches_tracked']\n        self.register_buffer('steps', torch.tensor(0))\n",
        "load_state_dict of the built-in layer", "lacks num_batches_tracked; adds steps",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    (case,) = cases_of("custom-layer").values()
    path = tmp_path_factory.mktemp("layers") / "layers.py"
    path.write_text(BASE + "\n\n".join(source for source, _, _ in LAYERS.values()), encoding="utf-8")
    return play_cells(tmp_path_factory.mktemp("run"), [renamed(case, n, custom=f"{path}:{n}") for n in LAYERS])


@pytest.mark.parametrize("name", LAYERS)
def test_each_fault_shows_in_its_action(cells: dict[str, Cell], name: str) -> None:
    moves = cells[name].result.notes["cell"]["custom"]["bn"]["moves"]
    _, action, words = LAYERS[name]
    assert set(moves) == {
        "a new layer", ".to(float64)", ".to(float16)", ".to(bfloat16)", ".cuda()", "deepcopy", "save and load",
        "load_state_dict of the built-in layer", "eval", "no_grad",
    }  # fmt: skip
    assert moves[".cuda()"] == "ok" or "unavailable: " in moves[".cuda()"]
    if words:
        assert words in moves.pop(action)
    wrong = {key: answer for key, answer in moves.items() if answer != "ok" and not answer.startswith("unavailable")}
    # A tensor that stays behind does so in every conversion; statistics that were not saved are not loaded either.
    allowed = {
        "Stays": {".to(float16)", ".to(bfloat16)"},
        "Attribute": {".to(float16)", ".to(bfloat16)", ".to(float64)", "load_state_dict of the built-in layer"},
        "Narrow": set(),
        "EvalMoves": {"no_grad"},
        "StaysInTraining": {"save and load", "no_grad", "deepcopy"},
    }.get(name, set())
    assert set(wrong) <= allowed, wrong
