"""How a variant of the torch backend runs the network: eager, compiled, scripted, traced, exported, recomputed, …

Loaded by backends/torch.py by path. Python 3.7 syntax. ``runner`` gives the function that takes the place of
calling the network; ``refuse`` says why a variant cannot run with this build of torch.
"""

import inspect
import os
import shutil
import sys
import sysconfig

SINCE = {
    "channels_last": ("channels_last", "1.5"),
    "compile": ("compile", "2.0"),
    "export": ("export", "2.1"),
    "autocast": ("autocast", "1.10"),
    "autocast_float16": ("autocast", "1.10"),
}


def refuse(torch, variant):
    """Raise RuntimeError with the reason when the variant cannot run here."""
    if variant in SINCE and not hasattr(torch, SINCE[variant][0]) and not has_module(torch, variant):
        raise RuntimeError("torch %s has no %s, which came with %s" % (torch.__version__, variant, SINCE[variant][1]))
    if variant == "compile":
        refuse_compile()
    if variant == "no_onednn":
        switch_off_onednn(torch)


def switch_off_onednn(torch):
    """For the whole process: it runs nothing but this target."""
    import torch.backends.mkldnn

    if not hasattr(torch.backends.mkldnn, "set_flags"):
        raise RuntimeError("torch %s cannot switch oneDNN off" % torch.__version__)
    torch.backends.mkldnn.set_flags(False)


def has_module(torch, variant):
    if variant != "export":
        return False
    try:
        import torch.export  # noqa: F401 - a submodule that older torch does not import by itself
    except ImportError:
        return False
    return True


def refuse_compile():
    """torch.compile on a CPU writes C++ that includes Python.h; both are needed, and neither comes with torch."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    if not any(shutil.which(name) for name in names):
        raise RuntimeError("torch.compile needs a C++ compiler, and there is no %s here" % " or ".join(names))
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    if not os.path.exists(header):
        raise RuntimeError(
            "torch.compile needs the headers of Python %d.%d, and %s is not there" % (sys.version_info[:2] + (header,))
        )


def runner(model, variant):
    """The function that runs a tensor through the network in the mode it is in."""
    ways = {
        "compile": compiled,
        "jit": scripted,
        "export": lambda model: program_per_mode(model, export_program),
        "trace": lambda model: program_per_mode(model, trace_program),
        "checkpoint": recomputed,
        "channels_last": strided,
        "autocast": lambda model: autocasting(model, model.torch.bfloat16),
        "autocast_float16": lambda model: autocasting(model, model.torch.float16),
    }
    return ways.get(variant, plain)(model)


def plain(model):
    return lambda data: model.net(data)


def autocasting(model, dtype):
    """Layers stay as they are; inside, torch computes matrix products and convolutions in the shorter dtype."""

    def run(data):
        with model.torch.autocast(model.device.split(":")[0], dtype=dtype):
            return model.net(data)

    return run


def compiled(model):
    # One process is enough for graphs of a few nodes; a pool would outlive the cell.
    from torch._inductor import config

    config.compile_threads = 1
    # A network that had to be compiled too often leaves all later ones of its process uncompiled, without a word.
    model.torch._dynamo.reset()
    return model.torch.compile(model.net, dynamic=False)


def scripted(model):
    """Script every layer and call them in turn, so that each BatchNorm layer's input and output can still be seen."""
    for name, child in list(model.net.named_children()):
        hooks = child._forward_hooks
        child._forward_hooks = type(hooks)()  # a scripted module would try to compile them
        setattr(model.net, name, model.torch.jit.script(child))
    model.norms = {name: getattr(model.net, name) for name in model.layers}

    def run(data):
        for name, child in model.net.named_children():
            out = child(data)
            if name in model.norms:
                model.seen[name] = (data, out)
            if name == model.returns:
                model.returned = out
            data = out
        return data

    return run


def program_per_mode(model, make):
    """A program made of the network as it is, once per mode and shape; parameters and buffers stay shared."""
    programs = {}

    def run(data):
        modes = tuple(module.training for module in model.net.modules())
        key = (modes, tuple(data.shape))
        if key not in programs:
            with model.unwatched():
                programs[key] = make(model.torch, model.net, data.detach())
        # Inner layers cannot be seen inside a program.
        model.seen, model.returned = {}, None
        return programs[key](data)

    return run


def trace_program(torch, net, data):
    """torch.jit.trace of the network. To trace is to run it once: what that moves is put back."""
    kept = [(module, name, held, held.clone()) for module in net.modules() for name, held in buffers(module)]
    try:
        return torch.jit.trace(net, data, check_trace=False)
    finally:
        with torch.no_grad():
            for module, name, held, value in kept:
                module._buffers[name] = held.copy_(value)


def buffers(module):
    return [(name, held) for name, held in module._buffers.items() if held is not None]


def export_program(torch, net, data):
    import torch.export  # noqa: F811 - a submodule that older torch does not import by itself

    try:
        return torch.export.export(net, (data,)).module()
    except Exception as error:
        # The class moved between versions; its name did not.
        if type(error).__name__ != "GuardOnDataDependentSymNode":
            raise
        raise NotImplementedError(
            "torch.export cannot follow a number that depends on data, such as the weight of momentum=None: %s"
            % str(error).strip().split("\n")[0]
        )


def recomputed(model):
    """Training forwards keep no activations and run a second time in backward."""

    def run(data):
        if model.net.training and model.torch.is_grad_enabled():
            return checkpointed(model, data)
        return model.net(data)

    return run


def checkpointed(model, data):
    from torch.utils.checkpoint import checkpoint

    model.recomputed = True
    # Before 1.11 there is only the re-entrant kind, without the keyword. Trying would not do: a ValueError may be the
    # network's own, and a second try moves its counter once more.
    keywords = {"use_reentrant": False} if "use_reentrant" in inspect.signature(checkpoint).parameters else {}
    return checkpoint(model.net, data, **keywords)


def strided(model):
    """The same numbers, laid out in memory with the channels last; the network's weights too."""
    torch = model.torch
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    model.net = model.net.to(memory_format=formats[5 if model.rank == 5 else 4])

    def run(data):
        if data.dim() not in formats:
            raise NotImplementedError(
                "torch lays out only 4-D and 5-D data with the channels last, not %d-D" % data.dim()
            )
        return model.net(data.contiguous(memory_format=formats[data.dim()]))

    return run
