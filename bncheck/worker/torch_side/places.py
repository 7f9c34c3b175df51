"""At which places of a model of PyTorch its normalising layers run.

Loaded by path, by subject/model.py and by inside.py. Python 3.7 syntax. One forward in eval is followed.
"""


def seen(torch, where, net, norms, run):
    """What runs before and behind each normalising layer that runs more than once in one eval forward, as
    own_side/places.py (``where``) says it, but for those of a part of the model that runs as often as they do: it gets
    several inputs. ``run()`` is the forward; the network is in eval from then on."""
    inner = {id(each) for norm in norms.values() for each in norm.modules()}
    known = dict(net.named_modules())
    modules = {
        name: each
        for name, each in known.items()
        if id(each) not in inner and not list(each.children()) and any(True for _ in each.parameters())
    }
    weights = {name.rpartition(".")[0] for name, _ in net.named_parameters()}
    around = {name: where.parts_around(name, norms, weights) for name in norms}
    wholes = {name: known[name] for names in around.values() for name in names if name not in modules}
    ran, hooks = [], []
    for name, module in [*modules.items(), *norms.items(), *wholes.items()]:
        if isinstance(module._buffers, dict):  # a scripted layer takes no hook
            hooks.append(module.register_forward_hook(lambda *_, name=name: ran.append(name)))
    net.eval()
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    found = where.several([name for name in ran if name not in wholes], set(norms))
    return {name: each for name, each in found.items() if len(each) not in map(ran.count, around[name])}
