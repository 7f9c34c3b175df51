"""What PyTorch made of a model before it was handed over: compiled, scripted, traced, exported.

Loaded by its users by path; Python 3.7 syntax.
"""

COMPILED = "torch.compile() was taken off: the layers are those of the model as it was before."
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
    return net, list(dict.fromkeys(remarks))


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
        return "an exported program", "torch.export.export()"
    return None


def refuses_modes(net):
    """A program of torch.export has its mode fixed, and raises at eval() whatever mode it is in."""
    try:
        net.eval()
    except NotImplementedError:
        return True
    return False
