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


def following(keeping, model, module, name):
    """Hooks that keep each call of one forward as (input, output, state before, state after) in ``model.called``: the
    statistics of a layer that is called at two places move twice."""
    before = []

    def enter(module, given):
        before[:] = [model.state(name)]

    def leave(module, given, out):
        if before and given and hasattr(given[0], "detach") and hasattr(out, "detach"):
            call = (given[0].detach(), out.detach(), before.pop(), model.state(name))
            model.called.setdefault(name, []).append(call)

    return [module.register_forward_pre_hook(enter), keeping.hook_on(module, leave)]


def aside(keeping, net):
    """A sentence on the normalising layers that lie in plain lists and dicts; none where there are none."""
    known, found = set(net.modules()), []
    for owner in list(known):
        inner = [each for kept in keeping.kept_in(owner) if hasattr(kept, "named_modules") for each in kept.modules()]
        found += [each for each in inner if each not in known and keeping.words_of(each)]
    if not found:
        return []
    kinds = ", ".join(sorted({type(each).__name__ for each in found}))
    said = "in a plain list or dict of the model, where eval(), parameters() and state_dict() do not reach it"
    return ["%s: %s; it was not judged. Keep it in nn.ModuleList or nn.ModuleDict." % (kinds, said)]


def taken_out(model, custom, shapes):
    """As own_side/inside.py asks: (target, variants, what each layer is, those that can be played), then sentences."""
    torch, norms = model.torch, model.norms
    own = {name: each for name, each in norms.items() if not type(each).__module__.startswith("torch.")}
    layers = {
        name: {
            "kind": type(each).__name__,
            "own": name in own,
            "calls": int(model.variant != "compile"),  # which would compile what counts them; 0: not known
            "dtype": dtype_of(model.seen[name][1]) if name in model.seen else "",
        }
        for name, each in norms.items()
    }
    return (
        "torch",
        ("", "builtin"),
        layers,
        playable(torch, custom, own, shapes),
        model.learnt + aside(model.part("keeping"), model.net),
    )


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
    sizes = {what: held[what].numel() for what in ("gamma", "beta") if held[what] is not None}
    odd = ["%s of the shape %s" % (what, tuple(held[what].shape)) for what in sizes if sizes[what] not in (1, channels)]
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
        "single": [what for what in sizes if sizes[what] == 1 < channels],
        "why": "it has a %s, and not a number for each of its %d channels" % (" and a ".join(odd), channels)
        if odd
        else "",
        "root": torch.nn.Module,
    }


def plain(value):
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
