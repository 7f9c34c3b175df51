"""What a normalising layer of the user's keeps, and under which names; and whether two looks at it are the same.

Loaded by watching.py and by what looks at a model once, by path. Python 3.7 syntax.
"""

import importlib
import sys
import weakref
from math import isfinite

import numpy as np

# Names that own layers give to what they remember; the first that exists is read.
MEANS = ("running_mean", "moving_mean", "stored_mean", "mean_ema", "ema_mean", "pop_mean", "population_mean",
         "global_mean", "avg_mean", "mean_avg", "running_mu")  # fmt: skip
VARS = ("running_var", "moving_var", "moving_variance", "running_variance", "stored_var", "stored_variance", "var_ema",
        "ema_var", "pop_var", "population_var", "global_var", "avg_var", "var_avg", "running_sigma2")  # fmt: skip
DEVIATIONS = ("running_std", "moving_std", "stored_std", "running_sigma")
COUNTERS = ("num_batches_tracked", "counter", "num_batches")
GAMMAS, BETAS = ("weight", "gamma", "scale", "gain"), ("bias", "beta", "shift", "offset")
# module → its words, of layers whose names say nothing and whose behaviour was seen (shown.py). Beside the usual
# words: ``form``, of what it keeps in the place of a variance ("deviation", "inverse", "logarithm", "log deviation"),
# and ``eps`` inside an inverse (``unsure``: it holds none). A name may be of a part of a tensor (``parts_of``).
SHOWN = weakref.WeakKeyDictionary()
LOGARITHMS = {"logarithm": 1.0, "log deviation": 2.0}  # times this is the variance's own logarithm
TOGETHER = (2, 3)  # rows of a tensor that holds all statistics of a layer
LITTLE = sys.byteorder == "little"
OWN_DICTS = ("_modules", "_parameters", "_buffers")  # of nn.Module


class Norm:
    """One normalising layer: its module, the recorder's record of it, and what was seen of it last."""

    def __init__(self, module, layer, words, builtin):
        self.module, self.layer, self.words, self.builtin = weakref.ref(module), layer, words, builtin
        self.before = self.after = None  # states around the last forward: (mean, var, counter); None: not looked at
        self.index = self.root = -1  # of the last forward, and the id of what it was named after
        self.trainable = self.axis = self.dtype = None
        self.bad = False  # a NaN or Inf was told of
        self.jumped = -9  # the number of its forward that found other statistics than the one before had left
        self.views = ()  # (name, tensor, where it lies, NumPy view of it) of each statistic, while they lie there
        self.writes = (0, 0)  # written() as a beat began

    def statistics(self, module, held):
        """(mean, var, counter) as they are now; None for each that the layer does not have."""
        found = []
        for word in ("mean", "var"):
            tensor = kept(module, self.words[word])
            found.append(None if tensor is None else held(tensor))
        if found[1] is not None:
            found[1] = as_variance(found[1], self.words)
        counter = kept(module, self.words["counter"])
        found.append(None if counter is None else float(counter))
        return tuple(found)

    def view(self, module):
        """Look at the buffers in place from now on, where they are plain ones on the CPU."""
        held = [(self.words[word], module._buffers.get(self.words[word])) for word in ("mean", "var", "counter")]
        self.views = ()
        if not self.words.get("form") and all(tensor is not None and tensor.device.type == "cpu" for _, tensor in held):
            try:
                self.views = tuple((name, each, each.data_ptr(), each.detach().numpy()) for name, each in held)
                self.written()
            except (TypeError, RuntimeError):  # a type that NumPy lacks; what inference_mode() made counts no writes
                self.views = ()

    def in_place(self, module):
        """Whether the views still show what the layer holds: the same tensors, where they were."""
        buffers = module._buffers
        for name, tensor, place, _ in self.views:
            if buffers.get(name) is not tensor or tensor.data_ptr() != place:
                return False
        return bool(self.views)

    def written(self):
        """How often PyTorch has seen somebody write into the mean and the variance, which lie in place."""
        (_, mean, _, _), (_, var, _, _), _ = self.views
        return mean._version, var._version

    def as_left(self, known):
        """The statistics in place; ``known`` itself where they are bit for bit what it says."""
        (_, _, _, mean), (_, _, _, var), (_, _, _, counter) = self.views
        held = (mean.tobytes(), var.tobytes(), counter.tobytes())
        if type(known) is Left:
            return known if known.held == held else Left(held, (mean.dtype, var.dtype, counter.dtype))
        if known is not None and bytes_of(known) == held[:2] and known[2] == float(counter):
            return known
        return Left(held, (mean.dtype, var.dtype, counter.dtype))

    def tensor(self, module, word):
        value = kept(module, self.words[word])
        return value if hasattr(value, "detach") else None


class Left:
    """(mean, var, counter) of a look as bytes: most looks only ask whether they are still the same. Arrays when asked
    for one."""

    __slots__ = ("held", "kinds")

    def __init__(self, held, kinds):
        self.held, self.kinds = held, kinds

    def __getitem__(self, at):
        mean, var, counter = map(np.frombuffer, self.held, self.kinds)
        return (mean, var, float(counter[0]))[at]

    def telling(self):
        """Whether the last byte of a value tells, as certain() asks it."""
        return all(kind.kind == "f" and kind.itemsize in (4, 8) for kind in self.kinds[:2]) and LITTLE

    def certain(self):
        """False where a value may be NaN, Inf or very large: it begins with ones in its exponent. A sum would say so,
        too, but takes the processor from Python to NumPy and BLAS and back."""
        for values, kind in zip(self.held[:2], self.kinds):
            tops = values[kind.itemsize - 1 :: kind.itemsize]
            if 0x7F in tops or 0xFF in tops:
                return False
        return True


def builtin_classes(torch):
    modules = importlib.import_module("torch.nn.modules.batchnorm")
    found = [getattr(modules, "_NormBase", None) or modules._BatchNorm, modules._BatchNorm]
    return tuple(dict.fromkeys(found))


def kept(module, name):
    """An attribute of a module, None where it has none. Module.__getattr__ takes longer than all else of a look."""
    if not name:
        return None
    value = None
    if isinstance(module._buffers, dict):  # a scripted module's is none
        value = module._buffers.get(name)
        value = module._parameters.get(name) if value is None else value
    if value is None and name[-1] == "]":
        whole = name.partition("[")[0]
        return parts_of(whole, kept(module, whole)).get(name)
    return getattr(module, name, None) if value is None else value


def parts_of(name, tensor):
    """{"stats[0]": a view of it, …}: mean and variance may be kept in one tensor, (2, C) or (C, 2)."""
    if not hasattr(tensor, "detach") or tensor.dim() < 2:
        return {}
    tensor, found = tensor.detach(), {}
    if tensor.shape[0] in TOGETHER:
        found.update(("%s[%d]" % (name, row), tensor[row]) for row in range(tensor.shape[0]))
    if tensor.shape[-1] in TOGETHER:
        before = "..." if tensor.dim() > 2 else ":"
        found.update(("%s[%s, %d]" % (name, before, row), tensor[..., row]) for row in range(tensor.shape[-1]))
    return found


def unlearnt(module):
    """{name: tensor} of its buffers, and of its parameters that get no gradient: statistics are kept as those, too."""
    found = {name: value for name, value in module._parameters.items() if value is not None and not value.requires_grad}
    return dict(found, **{name: value for name, value in module._buffers.items() if value is not None})


def has_plain(module):
    """Whether it keeps statistics as something else than buffers."""
    held, learnt = module.__dict__, module._parameters
    plain = "running_mean" in held or "moving_mean" in held or "running_mean" in learnt or "moving_mean" in learnt
    return plain or (bool(SHOWN) and module in SHOWN)


def hook_on(module, hook):
    """Register ``hook(module, given, out)``, where an input that has a name in the call counts as given."""

    def named(module, given, keywords, out):
        hook(module, given or tuple(keywords.values()), out)

    try:
        return module.register_forward_hook(named, with_kwargs=True)
    except TypeError:  # before torch 2.0
        return module.register_forward_hook(hook)


def words_of(module):
    """The names of a layer of the user's own for its mean, variance, counter, gamma and beta; None: it does not keep
    both statistics, of the same size, under names that say so, nor has its behaviour shown them."""
    if module in SHOWN:
        return SHOWN[module]
    kept = unlearnt(module)
    for name in MEANS[:2] + VARS[:3]:  # a tensor that is no buffer, or a parameter that nobody froze
        learnt = module._parameters[name] if name in module._parameters else None  # a scripted module's has no get()
        value = module.__dict__.get(name, learnt)
        if hasattr(value, "detach"):
            kept.setdefault(name, value)

    def first(names):
        return next((name for name in names if name in kept), "")

    mean, var, deviation = first(MEANS), first(VARS), first(DEVIATIONS)
    if not mean or not (var or deviation):
        return None
    channels = kept[mean].numel()
    if channels != kept[var or deviation].numel():
        return None
    gamma, beta = roles(module, channels, (mean, var, deviation))
    return {
        "mean": mean,
        "var": var,
        "deviation": deviation,
        "counter": first(COUNTERS),
        "gamma": gamma,
        "beta": beta,
    }


def as_variance(values, words):
    """What a layer keeps in the place of a variance, as one: an array or a tensor, in its own dtype."""
    form = words.get("form", "")
    if form == "deviation":
        return values * values
    if form in LOGARITHMS:
        values = values * LOGARITHMS[form]
        return np.exp(values) if isinstance(values, np.ndarray) else values.exp()
    return 1.0 / (values * values) - words["eps"] if form == "inverse" else values


def from_variance(values, words):
    """The other way round."""
    form = words.get("form", "")
    if form == "deviation":
        return values**0.5
    if form in LOGARITHMS:
        return (np.log(values) if isinstance(values, np.ndarray) else values.log()) / LOGARITHMS[form]
    return (values + words["eps"]) ** -0.5 if form == "inverse" else values


def roles(module, channels, others=()):
    """The names of scale and shift: by their names, else by what they are when the layer is new: ones and zeros.
    ``others``: names of what is neither."""
    held = {name: value for name, value in dict(module._buffers, **module._parameters).items() if value is not None}
    gamma = next((name for name in GAMMAS if name in held), "")
    beta = next((name for name in BETAS if name in held), "")
    for name, value in module._parameters.items():
        if value is None or name in (gamma, beta) or name in others or value.numel() != channels:
            continue
        if not gamma and bool((value.detach() == 1).all()):
            gamma = name
        elif not beta and bool((value.detach() == 0).all()):
            beta = name
    return gamma, beta


def named(words):
    """Whether the names of gamma and beta say what they are."""
    return words["gamma"] in GAMMAS and words["beta"] in BETAS


def channels_of(module, words):
    held = kept(module, words["mean"])
    if held is not None:
        try:
            return int(held.numel())
        except Exception:  # a lazy layer: its first forward tells
            return 0
    count = getattr(module, "num_features", 0)
    return count if isinstance(count, int) else 0


def holds(owner, module):
    """Whether a list, tuple or dict among the attributes of a module, or one inside it, has another as an item."""
    return any(item is module for item in kept_in(owner))


def kept_in(owner, most=1000):
    """What lies in lists, tuples and dicts among the attributes of a module, and in those inside them."""
    boxes = [value for name, value in owner.__dict__.items() if name not in OWN_DICTS]
    for _ in range(3):
        boxes = [each for each in boxes[:most] if isinstance(each, (list, tuple, dict))]
        items = [item for box in boxes for item in list(box.values() if isinstance(box, dict) else box)[:most]]
        for item in items:
            yield item
        boxes = items


def same(a, b):
    """Equal bit by bit, so that NaN is equal to itself."""
    if a is None or b is None:
        return a is b
    if isinstance(a, float):
        return a == b or (np.isnan(a) and np.isnan(b))
    return a.tobytes() == b.tobytes()


def bytes_of(state):
    """Of (mean, var, counter) those of the first two; None in place of what it lacks."""
    if type(state) is Left:
        return state.held[:2]
    return tuple(None if values is None else values.tobytes() for values in state[:2])


def alike(before, after):
    return bytes_of(before) == bytes_of(after)


def equal(a, b):
    """The same numbers in another dtype."""
    return hasattr(a, "dtype") and hasattr(b, "dtype") and a.dtype != b.dtype and np.array_equal(a, b)


def finite(*arrays):
    """Squares that add up to a finite number say so at a fifth of the price; where they do not, each is asked."""
    with np.errstate(all="ignore"):  # they may overflow, those of half precision soon
        return all(
            values is None or isfinite(values.dot(values)) or bool(np.isfinite(values).all()) for values in arrays
        )
