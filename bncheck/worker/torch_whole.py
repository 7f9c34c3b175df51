"""A whole network that somebody's function builds, in the place of a scenario's layers.

Loaded by backends/torch.py by path. Python 3.7 syntax. Its weights come from the function, not from the host, so
they are the same only from run to run of one version of torch: it is drawn in float32 after a fixed seed, and then
converted, so that a network in float64 has the very weights of the one in float32.
"""

import os

SEED = 0
# Ways to run a network that know its layers only from a scenario.
NOT_WITH = ("functional", "jit", "export", "builtin", "timed")


def build(torch, custom, text, arguments):
    """``path.py:function`` called with ``arguments``; what is wrong with it is one sentence.

    ``custom`` is torch_custom.py, which loads files.
    """
    path, _, name = text.rpartition(":")
    if not os.path.isfile(path):
        raise custom.CustomLayerError("there is no file %s: write network.model as path/to/file.py:function" % path)
    make = getattr(custom.import_file(path), name, None)
    if not callable(make):
        raise custom.CustomLayerError("%s has no function %s that could build a network" % (path, name))
    torch.manual_seed(SEED)
    call = "%s(%s)" % (name, ", ".join("%s=%r" % item for item in sorted(arguments.items())))
    try:
        net = make(**arguments)
    except (Exception, SystemExit) as error:
        raise custom.CustomLayerError("%s raises %s%s" % (call, custom.said(error), custom.line_in(path, error)))
    if not isinstance(net, torch.nn.Module):
        raise custom.CustomLayerError("%s returns a %s, not a torch.nn.Module" % (call, type(net).__name__))
    return net


def batch_norms(torch, net):
    """Names of its BatchNorm layers."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    return [name for name, module in net.named_modules() if isinstance(module, kind)]
