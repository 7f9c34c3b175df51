"""Where in a model of the user's its normalising layers run: at several places, or where the model itself does not
reach them.

Loaded by path beside own_side/model.py; Python 3.7 syntax, no framework is known here. One forward in inference is
followed, module by module.
"""

import collections
import contextlib

DEPTH, MOST = 3, 1000  # of lists in lists that a module keeps; things looked at in one of them


Call = collections.namedtuple("Call", "name given out")  # of a module: its first argument, what it gave


def seen(shared, model, batch):
    """``places``: {layer: [[what runs before it, what runs behind it], …]} of those that run more than once in one
    forward; ``aside``: those that run and that the model does not know, as [{"name", "kind"}]."""
    net = model.root()
    hidden = aside(shared, model, net)
    modules = dict(leaves(model, net), **model.norms)
    try:
        with model.followed(dict(modules, **hidden)) as calls:
            model.evaluated(net, batch)
    except (Exception, SystemExit):
        return {}  # the play itself has said why
    ran = [call.name for call in calls]
    return {
        "places": several(ran, set(model.norms)),
        "aside": [
            {"name": name, "kind": type(each).__name__}
            for name, each in hidden.items()
            if name in ran and getattr(each, "training", True)  # one that is in eval is hidden on purpose: a teacher
        ],
    }


def leaves(model, net):
    """{name: module} of those that hold weights and no other module, and are no part of a normalising layer."""
    hands, inner = model.hands, set()
    for norm in model.norms.values():
        inner |= {id(norm)} | {id(each) for each in hands.inner(norm)}
    found = {name: each for name, each in model.modules(net).items() if id(each) not in inner}
    return {name: each for name, each in found.items() if not hands.inner(each) and hands.weighs(each)}


def several(ran, norms):
    """``neighbours`` of those that run more than once."""
    return {name: each for name, each in neighbours(ran, norms).items() if len(each) > 1}


def neighbours(ran, norms):
    """{layer: [[module before, module behind], …], "" for none}; other normalising layers are looked past."""
    found = {}
    for place, name in enumerate(ran):
        if name in norms:
            before = next((each for each in ran[:place][::-1] if each not in norms), "")
            behind = next((each for each in ran[place + 1 :] if each not in norms), "")
            found.setdefault(name, []).append([before, behind])
    return found


def parts_around(name, norms, weights):
    """Paths of the parts of a model that a layer lies in and that hold weights beside those of normalising layers: a
    discriminator, and not a block of norm and activation. ``weights``: paths of what holds some."""
    words = name.split(".")
    around = [".".join(words[:count]) for count in range(1, len(words))]
    others = [each for each in weights if not any(within(each, norm) for norm in norms)]
    return [part for part in around if any(within(each, part) for each in others)]


def within(path, part):
    return path == part or path.startswith(part + ".")


def aside(shared, model, net):
    """{name: layer} of normalising layers that lie in a list, dict or plain object of a module, where nothing that
    goes through a model's modules meets them."""
    hands, modules = model.hands, dict({"": net}, **model.modules(net))
    known, found = {id(each) for each in modules.values()}, {}
    for name, owner in modules.items():
        for word, value in sorted(vars(owner).items(), key=lambda item: str(item[0])):
            for path, each in inside(hands, type(owner).__module__, value, "%s.%s" % (name, word) if name else word):
                if id(each) not in known and shared.normalises(hands, each):
                    found[path] = each
                    known.add(id(each))
    return found


def inside(hands, home, value, path, depth=0):
    """(path, module) of modules in lists, tuples, dicts and objects of the user's own file."""
    if isinstance(value, hands.base):
        if depth:
            yield path, value
        return
    if isinstance(value, dict):
        items = [("%s[%r]" % (path, key), each) for key, each in list(value.items())[:MOST]]
    elif isinstance(value, (list, tuple, set)):
        items = [("%s[%d]" % (path, place), each) for place, each in enumerate(list(value)[:MOST])]
    elif type(value).__module__ == home != hands.base.__module__ and hasattr(value, "__dict__"):
        items = [("%s.%s" % (path, word), each) for word, each in vars(value).items()]
    else:
        return
    for name, each in items if depth < DEPTH else ():
        for found in inside(hands, home, each, name, depth + 1):
            yield found


@contextlib.contextmanager
def followed(modules, method):
    """Calls of modules, in the order in which they end, while it is open; ``method``: what a call runs."""
    calls = []
    for name, module in modules.items():
        setattr(module, method, noting(getattr(module, method), name, calls))
    try:
        yield calls
    finally:
        for module in modules.values():
            vars(module).pop(method, None)


def noting(call, name, calls):
    def run(*given, **keywords):
        out = call(*given, **keywords)
        calls.append(called(name, given, out))
        return out

    return run


def called(name, given, out):
    """A call; what is no tensor is left out of it."""
    first = given[0] if given and hasattr(given[0], "shape") else None
    return Call(name, first, out if hasattr(out, "shape") else None)
