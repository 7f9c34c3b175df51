"""A model that a user's function builds, in a framework other than PyTorch: what those have in common.

Loaded by path beside a backend that takes such models (network.model). Python 3.7 syntax; no framework is known here.
"""

import os

SEED = 0  # a model is made after
PLAYED = 1  # it is played after: what is looked at before draws numbers, too; a second model is another one


def made(hands, custom, text, arguments):
    """(what ``path.py:function`` returns, the call in words); what is wrong with it is one sentence."""
    path, _, name = text.rpartition(":")
    custom.RUNS.update(title=hands.title, target=hands.target)
    if path.endswith(".py") and not os.path.isfile(path):
        raise custom.CustomLayerError("there is no file %s: write network.model as path/to/file.py:function" % path)
    make = custom.import_theirs(path)
    for word in name.split("."):
        make = getattr(make, word, None)
    if not callable(make):
        raise custom.CustomLayerError("%s has no function %s that could build a model" % (path, name))
    if isinstance(make, hands.base):
        raise custom.CustomLayerError(
            "%s in %s is a model, and network.model names a function that builds one: each case gets a new one"
            % (name, path)
        )
    call = "%s(%s)" % (name, ", ".join("%s=%r" % item for item in sorted(arguments.items())))
    try:
        net = make(**arguments)
    except (Exception, SystemExit) as error:
        raise custom.failed("%s raises %s%s" % (call, custom.said(error), custom.line_in(path, error)), error)
    if not isinstance(net, hands.base):
        raise custom.CustomLayerError("%s returns a %s, not a %s" % (call, type(net).__name__, hands.usual))
    return net, call


def one_tensor(custom, call, out, wanted):
    """The tensor of a dict, a list or a tuple that ``network.output`` names ("*": the first), or the only one."""
    if hasattr(out, "shape") and wanted is None:
        return out
    known = (
        dict(out.items())
        if hasattr(out, "items")
        else dict(enumerate(out if isinstance(out, (list, tuple)) else [out]))
    )
    names = {str(key): value for key, value in known.items() if hasattr(value, "shape")}
    if names and (wanted == "*" or (wanted is None and len(names) == 1)):
        return next(iter(names.values()))
    if str(wanted) not in names:
        raise custom.CustomLayerError(
            "the model of %s returns %s: say which to compare, with network.output"
            % (call, ", ".join(names) or "no tensor")
        )
    return names[str(wanted)]


# Each Whole model keeps {layer: [its calls in the last forward]}; a call is (input, output, whether it trains, number).
# Plain tuples: they leave functions that JAX compiles, which hands dicts back in the order of the alphabet.


def note(seen, name, given, out, trains):
    seen.setdefault(name, []).append((given, out, bool(trains), sum(map(len, seen.values()))))


def ran(seen):
    """{layer: (how often the last forward called it, whether it trained in the last of these calls)}."""
    return {name: (len(calls), bool(calls[-1][2])) for name, calls in seen.items()}


def last(seen, array):
    """{layer: (input, output)} of each layer's last call, in the order of these."""
    calls = sorted(((name, each[-1]) for name, each in seen.items()), key=lambda item: int(item[1][3]))
    return {name: (array(call[0]), array(call[1])) for name, call in calls}
