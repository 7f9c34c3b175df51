"""What PyTorch made of a model before it was handed over: compiled, scripted, traced, exported.

Loaded by its users by path; Python 3.7 syntax.
"""

COMPILED = "torch.compile() was taken off: the layers are those of the model as it was before."
# (class by name in a module's bases, what it is, what to take off)
SEALED = (
    ("TracedModule", "a traced module", "torch.jit.trace()"),
    ("TopLevelTracedModule", "a traced module", "torch.jit.trace()"),
    ("ScriptModule", "a scripted module", "torch.jit.script()"),
)


def without_compile(net):
    """(the model inside torch.compile's wrapper, a remark); (net, "") where there is no wrapper."""
    if type(net).__name__ == "OptimizedModule" and hasattr(net, "_orig_mod"):
        return net._orig_mod, COMPILED
    return net, ""


def sealed(net):
    """(what it is, the call that made it) of a module whose layers take no hooks; None of any other."""
    bases = [each.__name__ for each in type(net).__mro__]
    for name, what, call in SEALED:
        if name in bases:
            return what, call
    if type(net).__name__ == "GraphModule" and refuses_modes(net):
        return "an exported program", "torch.export.export()"
    return None


def refuses_modes(net):
    """A program of torch.export has its mode fixed, and raises at eval() whatever mode it is in."""
    try:
        net.eval()
    except NotImplementedError:
        return True
    return False
