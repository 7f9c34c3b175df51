"""Which layers of the user's inside a model of PyTorch can be taken out and played by themselves (own_side/alone.py).

Loaded by path, by backends/torch.py and by subject/model.py. Python 3.7 syntax.
"""


def places(torch, part, net):
    """{name of each normalising layer: its path in the network}; a scripted one takes no hook, and is not looked at."""
    paths = {id(module): path for path, module in net.named_modules()}
    found = part("held").normalisers(torch, net, part("keeping"))
    found = {name: module for name, module in found.items() if isinstance(module._buffers, dict)}
    remember(part("custom"), part("keeping"), found)
    return {name: paths[id(module)] for name, module in found.items()}


def remember(custom, keeping, norms):
    """Tell custom.py under which names the user's layers hold what."""
    for module in norms.values():
        if not type(module).__module__.startswith("torch."):
            custom.LEARNT[module] = keeping.words_of(module) or {}


def taken_out(model, custom, shapes):
    """As own_side/inside.py asks: (target, variants, what each layer is, those that can be played), then sentences."""
    torch, norms = model.torch, model.norms
    own = {name: each for name, each in norms.items() if not type(each).__module__.startswith("torch.")}
    layers = {
        name: {
            "kind": type(each).__name__,
            "own": name in own,
            "calls": 2 if name in model.twice else 1,  # or more, in one forward
            "dtype": dtype_of(model.seen[name][1]) if name in model.seen else "",
        }
        for name, each in norms.items()
    }
    return "torch", ("", "builtin"), layers, playable(torch, custom, own, shapes), model.learnt


def dtype_of(tensor):
    return str(tensor.dtype).replace("torch.", "")


def playable(torch, custom, own, shapes):
    """{name: (layer, its facts)} of ``own``, the user's layers, whose model trains; ``shapes``: of their inputs."""
    found = {name: facts(torch, custom, each, shapes[name]) for name, each in own.items() if name in shapes}
    return {name: (own[name], each) for name, each in found.items() if each is not None}


def facts(torch, custom, layer, shape):
    """Of a layer that alone.py can play; None where it learns more than a gamma and a beta, or is kept in eval."""
    held = {what: custom.find(layer, what) for what in custom.TENSORS}
    known = {id(each) for each in held.values()}
    if any(held[what] is None for what in ("running_mean", "running_var")) or not layer.training:
        return None
    if any(id(each) not in known for each in layer.parameters()):
        return None
    channels, (eps, momentum) = held["running_mean"].numel(), (custom.find(layer, word) for word in ("eps", "momentum"))
    if len(shape) < 2 or shape[1] != channels or (hasattr(layer, "momentum") and layer.momentum is None):
        return None
    for each in layer.parameters():
        each.requires_grad_()  # frozen from outside, for fine-tuning: what the layer computes is the question
    counter = custom.find(layer, "counter")
    if isinstance(counter, torch.Tensor):
        counter.zero_()  # as the built-in layer's that it is played beside
    return {
        "shape": list(shape),
        "axis": 1,
        "channels": channels,
        "eps": plain(eps),
        "weight": plain(momentum),
        "has": [what for what, each in held.items() if each is not None],
        "root": torch.nn.Module,
    }


def plain(value):
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
