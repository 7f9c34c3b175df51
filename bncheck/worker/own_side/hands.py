"""What a framework does in its own way with a layer of the user's. Loaded by layer.py by path; Python 3.7 syntax."""

import inspect

# Own layers spell their state differently; the first name that exists is read, each also with "_" before it.
NAMES = {
    "running_mean": ("running_mean", "moving_mean", "mean", "mov_mean"),
    "running_var": ("running_var", "moving_var", "variance", "var", "running_variance", "moving_variance", "mov_var"),
    "counter": ("num_batches_tracked",),
    "gamma": ("gamma", "weight", "scale"),
    "beta": ("beta", "bias", "offset", "shift"),
    "momentum": ("momentum",),
    "eps": ("epsilon", "eps"),
}
# A word of the scenario → what a constructor may call it.
WORDS = {"axis": ("axis",), "momentum": NAMES["momentum"], "eps": NAMES["eps"], "affine": ("affine",),
         "center": ("center",), "scale": ("scale",)}  # fmt: skip


class Hands:
    """What is a framework's own. ``title`` for people, ``target`` for --python; ``base`` the class that a layer is a
    subclass of, ``usual`` its name; ``builtin`` classes that take whatever a **kwargs hands them; ``learns``: layers
    learn the number of channels from their input; else the first argument without a default gets it. ``axis`` of the
    channels where nobody says. ``in_backward``: the built-in layer moves its statistics there."""

    title = target = usual = ""
    names, words, axis, learns, in_backward = NAMES, WORDS, 1, False, False
    base, builtin = object, ()

    def __init__(self):
        plain = self.array
        self.array = lambda held: plain(held.kept) ** held.power if isinstance(held, Powered) else plain(held)

    def switches(self, spec):
        """{word: value} of the constructor's arguments that say axis and affine."""
        return {"axis": spec["axis"], "affine": spec["affine"], "center": spec["affine"], "scale": spec["affine"]}

    def like_of(self, rank):
        """The name of the built-in layer that takes inputs of so many axes."""
        return ""

    def value(self, name, value, spec):
        """What the constructor's argument of that name gets."""
        return value

    def quietly(self, spec, dtype):
        """{argument: value} of what a constructor gets if it takes it, and nobody misses else."""
        return {}

    def finish(self, layer, shape, dtype):
        """Whatever a layer needs before it runs."""

    def turned(self, layer, spec, given):
        """Whether the layer normalises another axis than that of the scenario's channels."""
        rank = spec.get("rank", 2)
        return rank > 2 and spec["axis"] % rank != self.axis_of(layer, given) % rank

    def axis_of(self, layer, given):
        own = given.get("axis", getattr(layer, "axis", self.axis))
        own = own[0] if isinstance(own, (list, tuple)) and len(own) == 1 else own
        return own if isinstance(own, int) else self.axis

    def signature(self, layer):
        """Of the call."""
        return inspect.signature(layer.forward).parameters

    def number(self, held):
        return held if isinstance(held, (int, float)) and not isinstance(held, bool) else None

    def weights(self, layer):
        """All that is trained of it, in layers inside it too."""
        return list(self.learned(layer).values())

    def trains(self, held):
        """Whether gamma or beta gets gradients."""
        return True

    def trained(self, layer):
        """Those of its weights that nobody froze."""
        return [each for each in self.weights(layer) if self.trains(each)]

    def weighs(self, layer):
        """Whether it holds weights, trained or not."""
        return bool(self.weights(layer))

    def children(self, layer):
        """{attribute: layer} of those right inside it."""
        return {name: each for name, each in vars(layer).items() if isinstance(each, self.base)}

    def thaw(self, weights):
        """Let a layer's gamma and beta be trained again where somebody froze them."""

    def setting(self, layer, what):
        """momentum or eps of a layer that keeps it nowhere under a usual name."""

    def called(self, layer):
        """{argument: value} by which a call says that it is one of training."""
        return {}

    def moves(self, own):
        """{action on a layer: "ok" or the error}: what saving and loading does."""
        return {}

    # is_tensor(held), inner(layer): layers inside it, array(held): NumPy's, assign(layer, name, array),
    # learned(layer) and kept(layer): {name: tensor} of what is and is not trained, run(own, x): a training forward.


class Powered:
    """A variance that a layer keeps as a power of it, and does not train."""

    grad = None

    def __init__(self, kept, power):
        self.kept, self.power, self.shape, self.dtype = kept, power, kept.shape, kept.dtype
