"""A network with trained statistics, and functions that people call with theirs, for test_applied.py; torch only."""

import copy

import torch
from torch import nn


def build(frozen=False):
    torch.manual_seed(1)
    net = nn.Sequential()
    for place in range(3):
        net.add_module(f"conv{place}", nn.Conv2d(6 if place else 3, 6, 3, padding=1, bias=False))
        net.add_module(f"bn{place}", nn.BatchNorm2d(6))
        net.add_module(f"relu{place}", nn.ReLU())
    with torch.no_grad():
        for _ in range(20):
            net.train()(torch.randn(8, 3, 8, 8) * 2 + 1)
    for place in range(3) if frozen else ():
        norm = getattr(net, f"bn{place}")
        norm.eval()
        norm.weight.requires_grad = norm.bias.requires_grad = False
    return net


def build_frozen():
    return build(frozen=True)


def convert(module):
    """As mmengine converts to SyncBatchNorm and back: parameters and buffers are handed over, the mode is not."""
    new = module
    if isinstance(module, nn.BatchNorm2d):
        new = nn.SyncBatchNorm(module.num_features, module.eps, module.momentum)
        with torch.no_grad():
            new.weight, new.bias = module.weight, module.bias
        new.running_mean, new.running_var = module.running_mean, module.running_var
        new.num_batches_tracked = module.num_batches_tracked
    for name, child in module.named_children():
        new.add_module(name, convert(child))
    return new


def convert_as_torch_does(model):
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def fuse(model):
    names = [[f"conv{place}", f"bn{place}", f"relu{place}"] for place in range(3)]
    return torch.ao.quantization.fuse_modules(copy.deepcopy(model).eval(), names)


def fuse_without_eps(model):
    model = copy.deepcopy(model).eval()
    for place in range(3):
        norm, conv = getattr(model, f"bn{place}"), getattr(model, f"conv{place}")
        scale = norm.weight / torch.sqrt(norm.running_var * 1.1)
        conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None])
        conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
        setattr(model, f"bn{place}", nn.Identity())
    return model


def visualise(model, x):
    """As a tracer does: one forward in the mode that the model is in, hooks put on and taken off."""
    seen = []
    hooks = [module.register_forward_hook(lambda *_: seen.append(1)) for module in model.modules()]
    model(x)
    for hook in hooks:
        hook.remove()
    return seen


def summarise(model):
    return sum(each.numel() for each in model.parameters())


def evaluate(model, x):
    """Evaluates, and forgets to go back."""
    model.eval()
    with torch.no_grad():
        return model(x)


def wrap(model):
    return nn.DataParallel(model)


def patch(model):
    model.bn1.eps, model.bn2.momentum = 1e-3, None


def unfreeze(model):
    for each in model.parameters():
        each.requires_grad = True


def reset(model):
    model.bn0.reset_running_stats()


def prune(model):
    with torch.no_grad():
        model.conv2.weight[0] = 0


def swap(model):
    model.relu2 = nn.GELU()


def spoil(model):
    model.bn1.running_var[3] = -1


def crash(model):
    return model.nothing


def to_meta(model):
    return model.to("meta")
