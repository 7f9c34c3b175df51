"""What PyTorch made of a model before it was handed over: compiled, scripted, traced, exported.

Loaded by its users by path; Python 3.7 syntax.
"""

import functools

COMPILED = "torch.compile() was taken off: the layers are those of the model as it was before."
EXPORTED = "an exported program"
PARALLEL = ("DataParallel", "DistributedDataParallel")
# (class by name in a module's bases, what it is, what to take off)
SEALED = (
    ("TracedModule", "a traced module", "torch.jit.trace()"),
    ("TopLevelTracedModule", "a traced module", "torch.jit.trace()"),
    ("ScriptModule", "a scripted module", "torch.jit.script()"),
)


def opened(net):
    """(the model inside wrappers, with nothing in it compiled; what was taken off, in sentences)."""
    remarks = []
    while True:
        kind = type(net).__name__
        if kind == "OptimizedModule" and hasattr(net, "_orig_mod"):
            net, remark = net._orig_mod, COMPILED
        elif kind in PARALLEL:
            net, remark = net.module, "%s was taken off: the layers are those of the model in it." % kind
        else:
            break
        remarks.append(remark)
    if eager(net):
        remarks.append(COMPILED)
    return net, list(dict.fromkeys(remarks + with_its_mode(net)))


def with_its_mode(net):
    """Programs of torch.export inside: train() and eval() raise there; they leave them alone from now on."""
    names = []
    for name, module in net.named_modules():
        if module is not net and type(module).__name__ == "GraphModule" and refuses_modes(module):
            module.train = module.eval = lambda *given, module=module: module
            module.bncheck_exported = True
            names.append(name)
    what = (
        "is an exported program: its mode is fixed" if len(names) == 1 else "are exported programs: their mode is fixed"
    )
    return ["%s %s, and what it holds was not judged." % (", ".join(names), what)] if names else []


def run_as_written(torch):
    """torch.compile of a function gives that function from now on, because nobody sees the layers that a compiled one
    runs. A module is wrapped as ever: ``opened`` takes that off. Returns a list that names each when it is called."""
    usual, names = getattr(torch, "compile", None), []
    if usual is None:
        return names

    def as_written(model=None, *given, **more):
        if model is None:
            return lambda later: as_written(later, *given, **more)
        if isinstance(model, torch.nn.Module):
            return usual(model, *given, **more)

        @functools.wraps(model)
        def function(*args, **keywords):
            names.append(getattr(model, "__name__", "a function"))
            return model(*args, **keywords)

        return function

    torch.compile = as_written
    return names


def eager(net):
    """Whether something inside was compiled; it is not any more."""
    found = False
    for module in list(net.modules()):
        if getattr(module, "_compiled_call_impl", None) is not None:  # net.compile()
            module._compiled_call_impl, found = None, True
        for name, child in list(module.named_children()):
            while type(child).__name__ == "OptimizedModule":
                child, found = child._orig_mod, True
                setattr(module, name, child)
    return found


def sealed(net):
    """(what it is, the call that made it) of a module whose layers take no hooks; None of any other."""
    bases = [each.__name__ for each in type(net).__mro__]
    for name, what, call in SEALED:
        if name in bases:
            return what, call
    if type(net).__name__ == "GraphModule" and refuses_modes(net):
        return EXPORTED, "torch.export.export()"
    return None


def refuses_modes(net):
    """A program of torch.export has its mode fixed, and raises at eval() whatever mode it is in."""
    try:
        net.eval()
    except NotImplementedError:
        return True
    return False


# Operator of an exported graph → places of training (None: it is the one of eval), momentum and eps among its inputs.
OPERATORS = {
    "aten.batch_norm.default": (5, 6, 7),
    "aten._native_batch_norm_legit_functional.default": (5, 6, 7),
    "aten._native_batch_norm_legit.default": (5, 6, 7),
    "aten.native_batch_norm.default": (5, 6, 7),
    "aten._native_batch_norm_legit_no_training.default": (None, 5, 6),
}
RUNNING_MEAN = 3  # its place among them


def in_graph(net):
    """{layer: {"training", "momentum", "eps"}} as an exported program computes: the modes of its modules do nothing."""
    found = {}
    for node in getattr(getattr(net, "graph", None), "nodes", ()):
        places = OPERATORS.get(str(node.target))
        held = node.args[RUNNING_MEAN] if places and len(node.args) > max(each or 0 for each in places) else None
        name = str(getattr(held, "target", "")).rpartition(".")[0]
        if name:
            training, momentum, eps = (None if place is None else node.args[place] for place in places)
            found[name] = {"training": bool(training), "momentum": float(momentum), "eps": float(eps)}
    return found


def as_computed(net, layers, sealed):
    """The descriptions of layers (``torch_side/held.py``) with what a program that was exported does: its mode is in
    its graph, and the flags of its modules say nothing. Of one inside another model no mode is told: it has its own."""
    whole = bool(sealed) and sealed[0] == EXPORTED
    parts = [(name, module) for name, module in net.named_modules() if "bncheck_exported" in module.__dict__]
    if not whole and not parts:
        return layers
    known, nothing = in_graph(net) if whole else {}, {"training": None, "fixed": True}
    inside = tuple(name + "." for name, _ in parts)
    return [
        dict(layer, **(known.get(layer["name"], nothing) if whole else nothing))
        if whole or layer["name"].startswith(inside)
        else layer
        for layer in layers
    ]


def of_training(layers, sealed):
    """What is to be said of an exported program that normalises by the batch; [] of any other."""
    names = [layer["name"] for layer in layers if layer["training"]] if sealed and sealed[0] == EXPORTED else []
    if not names:
        return []
    which = ", ".join(names[:3]) + (" and %d more" % (len(names) - 3) if len(names) > 3 else "")
    verb = "normalises" if len(names) == 1 else "normalise"
    return [
        "It was exported in training mode: %s %s by the batch in it, and eval() cannot change that. Call model.eval() "
        "before torch.export.export()." % (which, verb)
    ]
