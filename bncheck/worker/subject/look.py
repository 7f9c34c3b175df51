"""What a class or function of the user's makes: a layer that could stand in BatchNorm's place, or a model.

Loaded by run.py by path; Python 3.7 syntax. A layer is made with a number of channels, keeps the shape of its input,
and holds no weights of two axes; everything else that is a module is a model.
"""

import inspect
import os
import warnings

CHANNELS = (4, 8, 32)  # some divide them into groups
SAMPLES = 8
SIDES = {2: (), 3: (6,), 4: (5, 5), 5: (3, 4, 3)}
RANKS = {"1d": (2, 3), "2d": (4,), "3d": (5,)}
KEYWORDS = {"eps": 1e-5, "momentum": 0.1, "affine": True}


class Thing:
    """``make`` is the user's class or function, ``module`` what it made (for a layer: with ``channels``)."""

    def __init__(self, kind, make, module, **more):
        self.kind, self.make, self.module = kind, make, module
        self.__dict__.update(more)


def find(torch, part, failed, job):
    """The thing of a job, made; ``failed`` is the error to raise, with a sentence and a remedy."""
    thing = find_any(torch, part, failed, job)
    empty = part("torch_side", "held").without_numbers(thing.module)
    if empty:
        raise failed(
            "%s makes a %s without numbers: %s" % (job["name"], thing.kind, empty),
            'make it on the CPU, or fill it: model.to_empty(device="cpu"), then model.load_state_dict(...)',
        )
    return thing


def find_any(torch, part, failed, job):
    custom = part("torch_side", "custom")
    make = named(torch, custom, failed, job)
    wanted, given = job.get("as", ""), job["with"]
    if isinstance(make, torch.nn.Module):
        return Thing("model", make, make)
    reason = ""
    if wanted != "model":
        layer, reason = layer_of(torch, part, make, given, job["inputs"])
        if layer is not None:
            return layer
        if reason.lacks:
            raise failed(*about_arguments(job["name"], reason))
        if reason.made and lacking(make, given):
            raise failed(
                "%s cannot be compared with BatchNorm: %s" % (job["name"], reason),
                reason.remedy
                or "as a model it can be checked: %s"
                % " ".join("--with %s=VALUE" % name for name in lacking(make, given)),
                "usage",
            )
    if wanted == "layer":
        raise failed("%s is no layer in BatchNorm's place: %s" % (job["name"], reason), "leave out --as layer")
    try:
        return Thing("model", make, made(torch, custom, failed, job, make, given))
    except failed:
        if not reason or not reason.made:
            raise
        said = "%s cannot be compared with BatchNorm: %s" % (job["name"], reason)
        raise failed(said, reason.remedy or "give the shape that it takes: --input 8,4,32,32", "usage")


def arguments(names):
    return "the argument%s %s" % ("s" if len(names) > 1 else "", " and ".join(names))


def about_arguments(name, reason):
    """(sentence, remedy, origin) about what a constructor needs that nobody gave."""
    beside = " beside %s" % reason.counted if reason.counted else ""
    more = "; where it is a layer, %s gets the number of channels" % reason.counted if reason.counted else ""
    words = " ".join("--with %s=VALUE" % each for each in reason.lacks)
    return "%s needs %s%s" % (name, arguments(reason.lacks), beside), "say what: %s%s" % (words, more), "usage"


def named(torch, custom, failed, job):
    """The class, function or module of that name."""
    module, name = job["module"], job["name"]
    is_file = module.endswith(".py")
    try:
        found = custom.import_file(module) if is_file else custom.import_package(module)
    except custom.CustomLayerError as error:
        raise failed(*about_import(error, module, job))
    short = os.path.basename(module) if is_file else module
    if module == "timm" and not hasattr(found, name) and getattr(found, "is_model", lambda name: False)(name):
        return lambda **given: found.create_model(name, **given)  # timm keeps its models in a register
    for word in name.split("."):
        owner, found = found, getattr(found, word, None)
        if found is None:
            raise failed("%s has no %s" % (short, name), known_names(owner))
    if not callable(found):
        kind = type(found).__name__
        raise failed("%s in %s is neither a class nor a function (%s)" % (name, short, kind), "name another")
    return found


def known_names(module):
    own = [
        key
        for key, value in sorted(vars(module).items())
        if callable(value) and getattr(value, "__module__", "") == getattr(module, "__name__", None)
    ]
    return "it has: %s" % ", ".join(own[:20]) if own else "it has no class or function of its own"


def about_import(error, module, job):
    """(sentence, remedy, origin): a package that is missing is the user's to install or to point at."""
    cause = error.__context__
    python = job["python"]
    if isinstance(cause, ImportError) and getattr(cause, "name", None):
        package = cause.name.partition(".")[0]
        if isinstance(cause, ModuleNotFoundError):
            needs = "" if module.partition(".")[0] == package else "%s needs it; " % os.path.basename(module)
            text = "%s is not installed in %s" % (cause.name, python)
            remedy = "%sname the Python that has it: --python PATH, or %s -m pip install %s" % (needs, python, package)
            return text, remedy, "import"
    text = getattr(error, "short", str(error))
    return text, "correct it; it is imported by %s" % python, "import"


def made(torch, custom, failed, job, make, given):
    """A model: what the user's function returns, called with the keywords of --with."""
    call = "%s(%s)" % (job["name"], ", ".join("%s=%r" % item for item in sorted(given.items())))
    lacks = lacking(make, given)
    if lacks:
        example = " ".join("--with %s=VALUE" % name for name in lacks)
        raise failed("%s needs %s" % (call, arguments(lacks)), "say what: %s" % example, "usage")
    torch.manual_seed(0)
    try:
        net = make(**given)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.partition(".")[0]
            remedy = "name the Python that has it: --python PATH, or %s -m pip install %s" % (job["python"], package)
            raise failed(
                "%s is not installed in %s, and %s needs it" % (error.name, job["python"], call), remedy, "import"
            )
        where = custom.line_in(job["module"], error)
        raise failed("%s raises %s%s" % (call, custom.said(error), where), "correct it, or say more: --with KEY=VALUE")
    if isinstance(net, (tuple, list)):
        nets = [each for each in net if isinstance(each, torch.nn.Module)]
        net = nets[0] if len(nets) == 1 else net
    if type(net).__name__ == "ExportedProgram":
        net = net.module()
    if not isinstance(net, torch.nn.Module):
        raise failed(
            "%s returns a %s, not a torch.nn.Module" % (call, type(net).__name__),
            "name a function that returns the model",
        )
    return net


def lacking(make, given):
    """Arguments without a default that nobody gives."""
    kinds, empty = inspect.Parameter, inspect.Parameter.empty
    try:
        known = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return []
    rest = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    return [each.name for each in known if each.default is empty and each.kind not in rest and each.name not in given]


# -------------------------------------------------------------------------------------------------------- layers


class Reason(str):
    """Why something is no layer. ``lacks`` names what its constructor needs beside ``counted``, the number of channels;
    ``made``: it was constructed, and no input goes through it as through BatchNorm."""

    lacks, counted, made, remedy = (), "", False, ""

    def __new__(cls, text, error=None, made=False, remedy=""):
        found = str.__new__(cls, text)
        found.lacks, found.counted = getattr(error, "lacks", ()), getattr(error, "counted", "")
        found.made, found.remedy = made, remedy
        return found


def layer_of(torch, part, make, given, inputs):
    """(the thing as a layer, "") or (None, why it is none)."""
    custom, arguments = part("torch_side", "custom"), part("torch_side", "arguments")
    if not (isinstance(make, type) and issubclass(make, torch.nn.Module)):
        return None, Reason("it is no subclass of torch.nn.Module")
    reason = Reason("")
    shapes = [tuple(each["shape"]) for each in inputs]
    counts = [value for name, value in given.items() if name in arguments.COUNTS and type(value) is int]
    for channels in counts[:1] or [shape[1] for shape in shapes[:1] if len(shape) > 1] or CHANNELS:
        keywords = dict(KEYWORDS, **given)
        try:
            first, taken, left_out = arguments.arguments_for(custom, make, channels, keywords)
            module = arguments.built(make, first, taken, left_out)
        except (Exception, SystemExit) as error:
            reason = reason or Reason(custom.said(error), error)
            continue
        fits = shapes and keeps(custom, module, channels)
        if not first and channels not in taken.values() and not fits and not arguments.shapeless(module):
            return None, Reason("its constructor takes no number of channels")
        keeping = part("torch_side", "keeping")
        heavy = next((name for name, each in module.named_parameters() if matrix(arguments, keeping, each)), "")
        if heavy and holds_complex(module) and takes_complex(torch, lambda: make(*first, **taken), channels):  # noqa: B023
            return None, COMPLEX
        if heavy:
            return None, Reason("it holds weights of more than one axis (%s)" % heavy)
        if part("torch_side", "held").without_numbers(module):
            return Thing("layer", make, module), ""  # find says so: no input shows anything of it

        def again(first=first, taken=taken):
            return make(*first, **taken)

        shape, why = shape_of(torch, again, make, channels, shapes[:1])
        if shape:
            part("torch_side", "shown").learn_alone(torch, lambda name: part("torch_side", name), module, shape)  # noqa: B023
            return Thing(
                "layer",
                make,
                module,
                channels=channels,
                shape=shape,
                left_out=sorted(left_out),
                defaults=defaults(custom, make),
                held=held(custom, module),
                custom=custom,
            ), ""
        reason = reason or (COMPLEX if takes_complex(torch, again, channels) else Reason(why, made=True))
    return None, reason


COMPLEX = Reason(
    "it takes complex numbers, which check does not make",
    made=True,
    remedy='bncheck run plays such a layer: parts = "complex" in [network], as in: bncheck show complex-batchnorm',
)


def holds_complex(module):
    return any(getattr(each, "is_complex", bool)() for each in module.buffers())


def keeps(custom, module, channels):
    """Whether it has a running mean of so many numbers: a shape was given, and this layer is made for it."""
    held = custom.find(module, "running_mean")
    return hasattr(held, "numel") and held.numel() == channels


def takes_complex(torch, make, channels):
    """Whether an input of complex numbers goes through it, and no other."""
    if not hasattr(torch, "complex"):
        return False
    for sides in SIDES.values():
        shape = (SAMPLES, channels) + sides
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                out = make().train()(torch.complex(torch.randn(*shape), torch.randn(*shape)))
        except Exception:
            continue  # another rank
        if getattr(out, "is_complex", bool)() and tuple(out.shape) == shape:
            return True
    return False


def matrix(arguments, keeping, tensor):
    """Whether it is a weight of more than one axis, and not all statistics in one tensor."""
    if type(tensor).__name__.startswith("Uninitialized") or not tensor.requires_grad and keeping.parts_of("", tensor):
        return False
    return sum(size > 1 for size in tensor.shape) > 1


def shape_of(torch, make, kind, channels, shapes):
    """(the first shape of input that the layer trains on and gives back in the same shape, in eval too, why none)."""
    names = " ".join(each.__name__.lower() for each in kind.__mro__)
    ranks = next((RANKS[word] for word in RANKS if word in kind.__name__.lower()), None)
    ranks = ranks or next((RANKS[word] for word in RANKS if word in names), ()) or (4, 2, 3, 5)
    why = makes = ""
    for shape in shapes or [(SAMPLES, channels) + SIDES[rank] for rank in ranks]:
        try:
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore")
                made = make().train()
                out = made(torch.randn(*shape))
                out = later(torch, made, out, shape)
        except Exception as error:
            why = why or "%s: %s" % (type(error).__name__, str(error).split("\n")[0][:300])
            continue
        if not isinstance(out, torch.Tensor) or out.shape != shape:
            got = tuple(out.shape) if isinstance(out, torch.Tensor) else "a %s" % type(out).__name__
            makes = makes or "it makes %s of %s, not a tensor of that shape" % (got, shape)
            continue
        return list(shape), ""
    return None, makes or why


def later(torch, made, out, shape):
    """What it gives in eval, where that is of another shape than what it gave in training: statistics of other axes
    than it was made for. Else ``out``; an error in eval is a fault of its own, which is played."""
    try:
        again = made.eval()(torch.randn(*shape))
    except Exception:
        return out
    return again if getattr(again, "shape", None) != getattr(out, "shape", None) else out


def defaults(custom, make):
    """{neutral word: default} of eps and momentum, as the constructor's signature says them."""
    try:
        known = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return {}
    found = {}
    for word in ("eps", "momentum"):
        for name in custom.NAMES[word]:
            value = getattr(known.get(name), "default", None)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found[word] = float(value)
    return found


def held(custom, module):
    """{neutral word: value} of eps and momentum, as the layer shows them."""
    found = {}
    for word in ("eps", "momentum"):
        value = custom.find(module, word)
        if hasattr(value, "detach") and not type(value).__name__.startswith("Uninit") and value.numel() == 1:
            value = value.item()
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found[word] = float(value)
    return found


def single(thing, word):
    """Whether one value stands for all channels."""
    value = thing.custom.find(thing.module, word)
    lazy = type(value).__name__.startswith("Uninitialized")  # it has no size before its first forward
    return thing.channels > 1 and not lazy and hasattr(value, "numel") and value.numel() == 1


def as_layer(thing):
    return {
        "kind": "layer",
        "class": thing.make.__name__,
        "shape": thing.shape,
        "channels": thing.channels,
        "left_out": thing.left_out,
        "defaults": thing.defaults,
        "held": thing.held,
        "affine": all(thing.custom.find(thing.module, word) is not None for word in ("gamma", "beta")),
        "single": [word for word in ("gamma", "beta") if single(thing, word)],
    }
