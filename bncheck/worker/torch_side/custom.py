"""Somebody's own BatchNorm in the place of nn.BatchNorm: load it, hold it to a layer's contract, see what it keeps.

Loaded by backends/torch.py by path. Python 3.7 syntax. The file is code that the user named on purpose; it runs
in the worker with the worker's rights, and whatever it does wrong is one sentence on one cell.
"""

import contextlib
import difflib
import importlib
import importlib.util
import os
import re
import sys
import traceback
import warnings
import weakref

# Own layers spell their state differently; the first name that exists is read.
NAMES = {
    "running_mean": ("running_mean", "moving_mean"),
    "running_var": ("running_var", "moving_var", "moving_variance"),
    "counter": ("num_batches_tracked",),
    "gamma": ("weight", "gamma"),
    "beta": ("bias", "beta"),
    "momentum": ("momentum",),
    "eps": ("eps", "epsilon"),
}
# Layers (and classes) whose names keeping.py knows, or has seen: their words, in its language.
LEARNT = weakref.WeakKeyDictionary()
WORDS = {"running_mean": "mean", "running_var": "var", "counter": "counter", "gamma": "gamma", "beta": "beta"}
HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the worker's folder
# What runs here, and the word for it in --python; own_side/layer.py says so where it is another framework.
RUNS = {"title": "PyTorch", "target": "torch"}
TENSORS = ("running_mean", "running_var", "gamma", "beta")
MOST_NODES = 50000  # a graph larger than this has long been seen to grow


class CustomLayerError(Exception):
    """What is wrong with the user's file or class, in a sentence."""

    origin = "subject"  # whose error it is, in the words of blame.py


def failed(text, error):
    """A sentence about an error of the user's file; where a package is missing, what is to be done about it."""
    if not isinstance(error, ImportError):
        return CustomLayerError(text)
    found = CustomLayerError(
        "%s. %s runs in %s here: run it in your project's own with --python %s=/path/of/the/project/python"
        % (text, RUNS["title"], sys.executable, RUNS["target"])
    )
    found.origin, found.short = "import", text
    return found


def load_class(torch, text):
    """The class that ``path.py:Name`` names, or ``package.module:Name``."""
    path, _, name = text.rpartition(":")
    if not path.endswith(".py"):
        module = import_package(path)
    elif not os.path.isfile(path):
        raise CustomLayerError("there is no file %s: write network.custom as path/to/file.py:Class" % path)
    else:
        module = import_file(path)
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        known = sorted(
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__
        )
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = "; did you mean %s?" % near[0] if near else ""
        raise CustomLayerError(
            "%s has no class %s; it defines %s%s" % (path, name, ", ".join(known) or "no class", hint)
        )
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise CustomLayerError("%s in %s is not a subclass of torch.nn.Module" % (name, path))
    return found


def import_file(path, _loaded={}):  # noqa: B006 - one import per process, however many cells use the file
    if path not in _loaded:
        home, name = package_of(path)
        sys.path.insert(0, home)  # a layer's file may import its neighbours
        writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # leave nothing in the user's folder
        try:
            module = importlib.import_module(name) if name else alone(path, "own_layers_%d" % len(_loaded))
        except (Exception, SystemExit) as error:
            raise failed("%s does not import: %s%s" % (path, said(error), line_in(path, error)), error)
        finally:
            sys.dont_write_bytecode = writes
            sys.path.remove(home)
        _loaded[path] = module
    return _loaded[path]


FRAMEWORKS = ("torch", "keras", "tensorflow", "paddle", "flax", "haiku", "mxnet", "mlx", "tinygrad")


def import_theirs(path):
    """A module of the user's, for a framework other than PyTorch. One that needs a framework which is not here holds
    that one's layers: it is no error that this target does not take them."""
    try:
        return import_file(path) if path.endswith(".py") else import_package(path)
    except CustomLayerError as error:
        cause = error.__context__
        lacks = str(cause.name) if isinstance(cause, ModuleNotFoundError) else ""
        if lacks.partition(".")[0] not in FRAMEWORKS:
            raise
        said = "%s needs %s, which is not installed beside %s" % (os.path.basename(path), lacks, RUNS["title"])
        raise NotImplementedError("%s (if it is meant to be: --python %s=PATH)" % (said, RUNS["target"]))


def alone(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # torch.jit and copy look a class up by its module
    spec.loader.exec_module(module)
    return module


def package_of(path):
    """(folder to import from, dotted name): a file inside a package may say `from . import …`; "" for one that stands
    alone."""
    folder, names = os.path.dirname(path), [os.path.splitext(os.path.basename(path))[0]]
    while os.path.isfile(os.path.join(folder, "__init__.py")) and os.path.basename(folder).isidentifier():
        folder, names = os.path.dirname(folder), [os.path.basename(folder)] + names
    names = names[:-1] if names[-1] == "__init__" else names
    alone = len(names) < 2 and os.path.basename(path) != "__init__.py"
    return (os.path.dirname(path), "") if alone or names[0] in sys.modules else (folder, ".".join(names))


def import_package(name):
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise failed("the package %s does not import: %s" % (name, said(error)), error)


def said(error):
    return "%s: %s" % (type(error).__name__, str(error)[:500])


def line_in(path, error):
    """The line of the file, and where the error went on to in another one: what a package's own file imports in vain
    is no fault of the line that imports the package."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and not frame.filename.startswith(HERE + os.sep)
    ]
    lines = [frame.lineno for frame in frames if frame.filename == path]
    if isinstance(error, SyntaxError) and error.lineno:
        here = not error.filename or error.filename == path
        return " (line %d)" % error.lineno if here else " (%s, line %d)" % (error.filename, error.lineno)
    if not lines:
        return ""
    last = frames[-1]
    if not isinstance(error, ImportError) or last.filename == path:
        return " (line %d)" % lines[-1]
    return " (line %d, by way of %s, line %d: %s)" % (lines[-1], last.filename, last.lineno, last.line)


# ------------------------------------------------------------------------------------------- which line it was


def remember_lines(torch, wanted):
    """Autograd keeps where each of its nodes was made, so that an error in a backward can name the line.

    For cells with an own layer only; for the whole process, so it is switched off again for the next cell.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces that it is slow
            torch.autograd.set_detect_anomaly(wanted, check_nan=False)
    except TypeError:
        return  # before 2.0 it stops at the first NaN, which is what these cells are about: the line stays unknown
    shorten_stacks(torch, wanted)


def shorten_stacks(torch, wanted):
    """Of each stack that autograd keeps, only what is neither torch's nor this worker's: writing all of it down took as
    long as the forwards. No node's line is lost: the user's file and what it imports stay."""
    module = sys.modules.get("torch.fx.traceback")
    whole = getattr(module, "format_stack", None)
    if whole is None or hasattr(whole, "whole") == wanted:
        return
    if not wanted:
        module.format_stack = whole.whole
        return
    others = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.dirname(__file__)) + os.sep)

    def format_stack():
        if getattr(module, "should_preserve_node_meta", False):
            return whole()
        found, frame = [], sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if not code.co_filename.startswith(others):
                found.append(traceback.FrameSummary(code.co_filename, frame.f_lineno, code.co_name))
            frame = frame.f_back
        return traceback.format_list(reversed(found))

    format_stack.whole = whole
    module.format_stack = format_stack


@contextlib.contextmanager
def naming_the_line(path):
    """An error that passes through the user's file, or arose from what that file computed, says on which line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except Exception as error:
            line = line_of_traceback(path, error) or line_of_warnings(path, caught)
            line = "" if getattr(error, "origin", "") == "framework" else line
            if line and error.args and isinstance(error.args[0], str):
                first = error.args[0].split(" Hint: ")[0]
                error.args = ("%s [%s]" % (first, line),) + error.args[1:]
            raise
    for item in caught:
        warnings.showwarning(item.message, item.category, item.filename, item.lineno)


def raises_alike(model, error, data, mode):
    """Whether the error arose in torch's own code, and the network with built-in layers raises the very same."""
    torch = model.torch
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    if not last.startswith(os.path.dirname(torch.__file__) + os.sep):
        return False
    try:
        usual = model.builtin()
        usual.net.train(model.net.training)
        with torch.set_grad_enabled(mode not in ("eval", "no_grad")):
            usual.call(data)
    except Exception as other:
        return (type(other), str(other)) == (type(error), str(error))
    finally:
        remember_lines(torch, True)
    return False


def line_of_traceback(path, error):
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if beside(path, frame.filename)]
    return place(frames[-1].filename, frames[-1].lineno, frames[-1].line) if frames else ""


def line_of_warnings(path, caught):
    """Anomaly mode's warning holds the traceback of the forward that made the failing node."""
    for item in caught:
        lines = str(item.message).split("\n")
        for number in range(len(lines) - 2, -1, -1):
            found = re.match(r'\s*File "(.*)", line (\d+), in ', lines[number])
            if found and beside(path, found.group(1)):
                return place(found.group(1), int(found.group(2)), lines[number + 1])
    return ""


def beside(path, name):
    """The user's file, or one in its folder that it imports."""
    return os.path.dirname(name) == os.path.dirname(path)


def place(path, number, code):
    return "%s, line %d: %s" % (os.path.basename(path), number, (code or "").strip())


def check_output(module, given, out):
    name, data = type(module).__name__, given[0]
    if not hasattr(out, "shape") or not hasattr(out, "dtype"):
        raise CustomLayerError(
            "%s returns a %s; a layer in BatchNorm's place returns one tensor" % (name, type(out).__name__)
        )
    if out.shape != data.shape:
        raise CustomLayerError(
            "%s turns the shape %s into %s; BatchNorm keeps it" % (name, tuple(data.shape), tuple(out.shape))
        )
    if out.dtype != data.dtype:
        raise CustomLayerError("%s turns %s into %s; BatchNorm keeps the dtype" % (name, data.dtype, out.dtype))


def find(norm, what):
    """The layer's tensor or number for a neutral word, None where it has none."""
    held = attribute(norm, what)
    return held if held is not None else attribute(holder(norm), what)


def as_held(norm, what, value):
    """A value as the layer holds it: some keep a deviation in the place of a variance."""
    return from_form(norm, what, value, "from_variance")


def as_meant(norm, what, array):
    """The other way round."""
    return from_form(norm, what, array, "as_variance")


def from_form(norm, what, value, way):
    words = learnt(holder(norm))
    if what != "running_var" or not words.get("form"):
        return value
    return getattr(sys.modules["bncheck_torch_keeping"], way)(value, words)


def learnt(module):
    """Of a layer in a model its own words; of one that is played by itself also those of another of its class."""
    return LEARNT.get(module) or LEARNT.get(type(module), {})


def per_channel(array, channels):
    """What a layer holds as one number per channel: (1, C, 1, 1) is (C,), and one value is every channel's."""
    flat = array.reshape(-1)
    return flat.repeat(channels) if flat.size == 1 and channels > 1 else flat


def holder(norm):
    """The module that keeps the statistics: the layer itself, or the only one inside it that does (a wrapper)."""
    if attribute(norm, "running_mean") is not None:
        return norm
    inner = [each for each in norm.modules() if each is not norm and attribute(each, "running_mean") is not None]
    return inner[0] if len(inner) == 1 else norm


def attribute(module, what):
    """A scripted layer hands out the property object itself where its class has a property; ``bias`` may be a flag."""
    found = [getattr(module, name, None) for name in NAMES[what]]
    name = learnt(module).get(WORDS.get(what, ""))
    found += [sys.modules["bncheck_torch_keeping"].kept(module, name)] if name else []  # it has made these words
    return next((held for held in found if held is not None and could_be(held, what)), None)


def names_in(norm):
    """{neutral word: the attribute of the layer that holds it}; of what it keeps in another form or in a part of a
    tensor a text that is no name, and nothing of what a layer inside it holds."""
    words, found = learnt(norm), {}
    for what, word in WORDS.items():
        taken = words.get(word) or ""
        names = list(NAMES[what]) + [taken]
        name = next((each for each in names if each and hasattr(getattr(norm, each, None), "detach")), taken)
        if what == "running_var" and words.get("form"):
            name = "(%s)" % words["form"]
        if name:
            found[what] = name
    return found


def could_be(held, what):
    return hasattr(held, "detach") if what in TENSORS else not isinstance(held, property)


# ------------------------------------------------------------------------------------ what hangs on the buffers


def kept_tensors(torch, norm):
    """{name: tensor} of what the layer keeps from step to step but does not learn: parameters that get no gradient,
    buffers, plain attributes."""
    found = {name: value for name, value in norm.named_parameters() if not value.requires_grad}
    found.update(norm.named_buffers())
    found.update((name, value) for name, value in vars(norm).items() if isinstance(value, torch.Tensor))
    return found


def walk_graph(tensors):
    """All autograd nodes reachable from the tensors (at most MOST_NODES); the set keeps their identities alive."""
    stack = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen = set(stack)
    while stack and len(seen) < MOST_NODES:
        for node, _ in stack.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    return seen


def bytes_saved(torch, nodes, _attributes={}):  # noqa: B006 - the attribute names per kind of node
    """Bytes of the distinct storages that the nodes keep alive; None before torch 1.9, which does not show them."""
    sizes, readable = {}, False
    for node in nodes:
        kind = type(node)
        if kind not in _attributes:
            _attributes[kind] = [name for name in dir(kind) if name.startswith("_saved_")]
        for name in _attributes[kind]:
            readable = True
            try:
                value = getattr(node, name)
            except RuntimeError:
                continue  # freed by a backward: keeps nothing
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, torch.Tensor):
                    sizes[tensor.data_ptr()] = max(
                        sizes.get(tensor.data_ptr(), 0), tensor.numel() * tensor.element_size()
                    )
    return sum(sizes.values()) if readable or not nodes else None


def graph_state(torch, norm, behind, sizes=True):
    """What the trace records after every event: nodes behind the buffers, and (``sizes``) the bytes those keep.

    Without ``sizes`` where activations are recomputed: asking a node what it saved runs the forward once more, and
    moves the statistics that are looked at.
    ``behind`` ({buffer: one number per call}) is continued; a buffer that never has a graph does not enter it.
    """
    calls = behind.setdefault("", 0)
    behind[""] = calls + 1
    nodes = set()
    for name, tensor in kept_tensors(torch, norm).items():
        if tensor.grad_fn is not None or name in behind:
            found = walk_graph([tensor])
            behind.setdefault(name, [0] * calls).append(len(found))
            nodes |= found
    found, size = {"graph_nodes": len(nodes)}, bytes_saved(torch, nodes) if sizes else None
    if size is not None:
        found["graph_bytes"] = size
    return found
