"""Checkpoints as PyTorch writes them: ``python torch_checkpoints.py FOLDER``, in a Python that has torch."""

import collections
import contextlib
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

FOLDER = Path(sys.argv[1])


class Twice(nn.Module):
    """A layer of somebody's own, with names of its own and the shape of an image."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((1, 3, 1, 1), 2.0))
        self.beta = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.register_buffer("stored_mean", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("stored_var", torch.full((1, 3, 1, 1), 4.0))

    def forward(self, x):
        return x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4, eps=1e-3, momentum=0.2)
        self.head = nn.Sequential(nn.Conv2d(4, 2, 3, bias=False), nn.BatchNorm2d(2))
        self.group, self.layer = nn.GroupNorm(2, 4), nn.LayerNorm([2])
        self.own = Twice()

    def forward(self, x):
        return self.head(self.bn(self.conv(x)))


def save(name, thing, **how):
    torch.save(thing, str(FOLDER / name), **how)


torch.manual_seed(1)
net = Net()
optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
net(torch.ones(2, 3, 8, 8)).sum().backward()
optimizer.step()
with torch.no_grad():
    net.bn.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    net.bn.running_var.copy_(torch.tensor([0.5, 1.5, 2.5, 3.5]))
    net.bn.num_batches_tracked.fill_(7)
    net.bn.weight.copy_(torch.tensor([1.0, 0.5, 0.25, 2.0]))
    net.bn.bias.fill_(0.125)
state = net.state_dict()
wrapped = collections.OrderedDict(("module." + key, value) for key, value in state.items())
save("state.pt", state)
save("whole.pt", net)
if hasattr(nn.Module, "to_empty"):
    save("meta.pt", {key: value.to("meta") for key, value in state.items()})
if torch.__version__.startswith("1.1."):
    sys.exit()
save("legacy.pth", state, _use_new_zipfile_serialization=False)
save("legacy2.pth", state, _use_new_zipfile_serialization=False, pickle_protocol=4)
save("protocol5.pt", state, pickle_protocol=5)
save("parameters.pt", {key: nn.Parameter(value, requires_grad=False) for key, value in state.items()})
save("parallel.pt", {"state_dict": wrapped, "epoch": 3, "optimizer": optimizer.state_dict()})
save("compiled.pt", {key.replace("head.", "head._orig_mod."): value for key, value in state.items()})
save("two.pt", {"model": state, "ema": {"module": wrapped, "decay": 0.999}, "optimizer": optimizer.state_dict()})
save("bfloat16.pt", {key: value.bfloat16() if value.is_floating_point() else value for key, value in state.items()})
save("half.pt", {key: value.half() if value.is_floating_point() else value for key, value in state.items()})
names = ("running_mean", "running_var", "weight", "bias")
one = torch.stack([state["bn." + name] for name in names], 1)
save("views.pt", {"bn." + name: one[:, place] for place, name in enumerate(names)})
save("convolution.pt", {"conv.weight": net.conv.weight.detach()})
save("numbers.pt", {"epoch": 3})
torch.jit.script(net).save(str(FOLDER / "script.pt"))
arrays = {key: value.numpy() for key, value in state.items()}
np.savez(str(FOLDER / "state.npz"), **arrays)
np.savez_compressed(str(FOLDER / "packed.npz"), **arrays)
np.save(str(FOLDER / "state.npy"), arrays)
with contextlib.suppress(ImportError):  # its own library writes it where it is there
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in state.items()}, str(FOLDER / "state.safetensors"))
