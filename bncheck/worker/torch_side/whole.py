"""A network that a user's function builds, played instead of a scenario's layers.

Loaded by backends/torch.py by path. Python 3.7 syntax. Its weights come from the function, not from the host, so
they are the same only from run to run of one version of torch: it is drawn in float32 after a fixed seed, and then
converted, so that a network in float64 has the very weights of the one in float32.
"""

import copy
import os
from collections import OrderedDict

SEED = 0
# Ways to run a network that know its layers only from a scenario.
NOT_WITH = ("functional", "jit", "trace", "export", "builtin", "timed")


def build(torch, custom, given, text, arguments, output=None):
    """``path.py:function`` called with ``arguments``, or a copy of a model that the file holds under that name; what is
    wrong with it is one sentence.

    ``custom`` is custom.py, which loads files, ``given`` arguments.py. A network that returns more than a
    tensor hands out the one that ``output`` (network.output) names, or the only one there is.
    """
    path, _, name = text.rpartition(":")
    if not os.path.isfile(path):
        raise custom.CustomLayerError("there is no file %s: write network.model as path/to/file.py:function" % path)
    torch.manual_seed(SEED)  # a model that the file itself makes is the same one in each process
    make = getattr(custom.import_file(path), name, None)
    if not callable(make):
        raise custom.CustomLayerError("%s has no function %s that could build a network" % (path, name))
    held = isinstance(make, torch.nn.Module)
    if held and arguments:
        raise custom.CustomLayerError("%s in %s is a model, and takes no network.arguments" % (name, path))
    torch.manual_seed(SEED)
    call = name if held else "%s(%s)" % (name, ", ".join("%s=%r" % item for item in sorted(arguments.items())))
    try:
        net = copy.deepcopy(make) if held else make(**arguments)
    except (Exception, SystemExit) as error:
        raise custom.failed("%s raises %s%s" % (call, custom.said(error), custom.line_in(path, error)), error)
    if not isinstance(net, torch.nn.Module):
        raise custom.CustomLayerError("%s returns a %s, not a torch.nn.Module" % (call, type(net).__name__))
    given.refuse_inputs(
        custom, net, "the network of %s" % call, "return a network that takes one and makes the others itself"
    )
    net.register_forward_hook(one_tensor(torch, custom, call, output))
    return net


# ---------------------------------------------------------------------------------------------------- its output


def one_tensor(torch, custom, call, wanted):
    """A hook on the network that hands out one tensor of a dict, a tuple, a dataclass, whatever it returns."""

    def hook(module, given, out):
        if isinstance(out, torch.Tensor) and wanted is None:
            return None
        found = leaves(torch, out)
        return found[choose(custom, call, out, found, wanted)]

    return hook


def choose(custom, call, out, found, wanted):
    """The name of the tensor to hand out; CustomLayerError that names them all where it cannot be told."""
    names, kind = list(found), "returns a %s" % type(out).__name__
    known = " with %s" % ", ".join(names[:12]) if names else ""
    if not names:
        raise custom.CustomLayerError("the network of %s %s, which holds no tensor" % (call, kind))
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None:
        raise custom.CustomLayerError(
            "the network of %s %s%s: say which to compare, with network.output = %s"
            % (call, kind, known, names[0] if names[0].isdigit() else '"%s"' % names[0])
        )
    below = [name for name in names if name == str(wanted) or name.startswith("%s." % wanted)]
    if len(below) != 1:
        which = "holds several tensors" if below else "is not there"
        raise custom.CustomLayerError(
            "network.output = %r %s: the network of %s %s%s" % (wanted, which, call, kind, known)
        )
    return below[0]


def leaves(torch, out, name="", found=None, depth=0):
    """{dotted name: tensor} of everything in an output: keys of dicts, places of tuples, fields of objects."""
    found = OrderedDict() if found is None else found
    if isinstance(out, torch.Tensor):
        found[name] = out
        return found
    if depth > 8 or out is None or isinstance(out, (str, bytes, int, float, complex, torch.nn.Module)):
        return found
    if hasattr(out, "items"):
        items = list(out.items())
    elif isinstance(out, (tuple, list)):
        items = list(zip(getattr(out, "_fields", None) or range(len(out)), out))
    else:
        fields = getattr(out, "__dataclass_fields__", None) or getattr(out, "__dict__", {})
        items = [(field, getattr(out, field, None)) for field in fields]
    for key, value in items:
        leaves(torch, value, "%s.%s" % (name, key) if name else str(key), found, depth + 1)
    return found
