"""What the user's own BatchNorm is given: its constructor's arguments, one tensor, the scenario's initial values.

Loaded by backends/torch.py by path. Python 3.7 syntax. ``custom`` is custom.py, which loads the file and knows
what a layer's state may be called. What cannot be given is said before anything is played.
"""

import inspect
import re

# Arguments that switch a state on or off: what the layer keeps then.
SWITCHES = {"affine": "gamma", "track_running_stats": "running_mean"}
# What a layer starts from unless the scenario says otherwise, and what PyTorch keeps it in.
USUAL = {"gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}
KEPT_IN = {"gamma": "parameter", "beta": "parameter", "running_mean": "buffer", "running_var": "buffer"}
# First arguments that are no number of channels: nn.LazyBatchNorm2d(eps, …).
NO_CHANNELS = ("eps", "epsilon", "momentum", "affine", "track_running_stats")


def make(torch, custom, text, channels, keywords, rank, more=None):
    """Construct it as Class(channels, eps=…, momentum=…, affine=…), and watch that its output has its input's form.

    ``more`` are keywords that are this class's own (network.arguments)."""
    if not isinstance(text, str):  # a layer that is there already (own_side/alone.py)
        norm = text.layer
    else:
        norm = construct(torch, custom, text, channels, dict(keywords, **(more or {})))
    refuse_inputs(custom, norm, type(norm).__name__, "in two tensors or more go only the channels (network.parts)")
    give_shapes(torch, custom, norm, type(norm).__name__, channels, rank)
    norm.register_forward_hook(custom.check_output)
    return norm


def make_parts(torch, custom, text, parts, adapter, channels, keywords, rank, more=None):
    """A layer that takes its channels in several tensors, Class(channels of one part, …), behind a module of one."""
    if parts == "complex" and not hasattr(torch, "complex"):
        raise NotImplementedError("torch %s has no complex tensors; torch.complex came with 1.7" % torch.__version__)
    count = 2 if parts == "complex" else parts
    norm = construct(torch, custom, text, channels // count, dict(keywords, **(more or {})))
    name, made = type(norm).__name__, adapter(norm, parts)
    give_shapes(torch, custom, made, name, channels, rank)
    return made


def construct(torch, custom, text, channels, keywords):
    kind = custom.load_class(torch, text)
    first, given, left_out = arguments_for(custom, kind, channels, keywords)
    call = "%s(%s)" % (kind.__name__, ", ".join(["%d" % each for each in first] + words_of(given)))
    try:
        norm = built(kind, first, given, left_out)
    except (Exception, SystemExit) as error:
        where = custom.line_in(text.rpartition(":")[0], error)
        raise custom.failed("%s raises %s%s" % (call, custom.said(error), where), error)
    if left_out:
        norm.bncheck_left_out = left_out
    return norm


def built(kind, first, given, left_out):
    """The object; a keyword that **kwargs took and somebody behind it refuses is left out as well."""
    while True:
        try:
            return kind(*first, **given)
        except TypeError as error:
            refused = re.search("unexpected keyword argument '(\\w+)'", str(error))
            if refused is None or refused.group(1) not in given:
                raise
            left_out[refused.group(1)] = given.pop(refused.group(1))


def refuse_inputs(custom, module, who, remedy):
    """bncheck gives one tensor: what takes none, or needs more, is said before anything is played."""
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):  # scripted: calling it will tell
        return
    try:
        signature.bind(None)
    except TypeError:
        empty, rest = inspect.Parameter.empty, (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        named = signature.parameters.values()
        needed = [each.name for each in named if each.default is empty and each.kind not in rest]
        takes = "%d inputs (%s)" % (len(needed), ", ".join(needed)) if len(needed) > 1 else "no input of that kind"
        raise custom.CustomLayerError(
            "%s takes %s: forward%s. bncheck gives one tensor: %s" % (who, takes, signature, remedy)
        )


def words_of(keywords):
    return ["%s=%r" % item for item in sorted(keywords.items())]


def arguments_for(custom, kind, channels, keywords):
    """(positional, keywords, {what was asked for and it has no argument for}) of a class's constructor.

    The number of channels comes first, under whatever name, unless another argument has a name that says so or the
    first is given; a class whose first argument is eps or the like counts them itself. eps and momentum go also under
    their other names. What the constructor needs beyond that bncheck does not know.
    """
    try:
        known = inspect.signature(kind).parameters
    except (TypeError, ValueError):  # a class without a signature that could be read takes what it takes
        return [channels], dict(keywords), {}
    kinds = inspect.Parameter
    named = [each for each in known.values() if each.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
    places = [each for each in named if each.kind != kinds.KEYWORD_ONLY]
    counts_itself = bool(places) and places[0].name in NO_CHANNELS
    places = [] if counts_itself else places
    more = not counts_itself and any(each.kind == kinds.VAR_POSITIONAL for each in known.values())
    rest = any(each.kind == kinds.VAR_KEYWORD for each in known.values())
    given, left_out = {}, {}
    counted = place_of_channels(places, keywords)
    if places and counted is not places[0]:
        return not_first(custom, kind, channels, keywords, places, counted, more, rest)
    for word, value in keywords.items():
        found = next(
            (name for name in custom.NAMES.get(word, (word,)) if name in known and known[name] not in places[:1]), None
        )
        if found is not None or rest:
            given[found or word] = value
        else:
            left_out[word] = value
    first = [channels] if places or more else []
    lacks = [each.name for each in named if each.default is kinds.empty and each.name not in given]
    lacks = lacks[1:] if first and places and places[0].name in lacks else lacks
    if not first and lacks:
        given[lacks.pop(0)] = channels
    if lacks:
        raise lacking(custom, kind, lacks, keywords, counted)
    return first, given, left_out


# Names that an argument for the number of channels has, where it is not the first.
COUNTS = (
    "num_features", "num_channels", "n_features", "n_channels", "in_channels", "in_features", "input_features",
    "features", "channels", "planes", "num_planes", "input_dim", "input_size", "dim",
)  # fmt: skip


def place_of_channels(places, keywords):
    """The argument that takes the number of channels; None where it is given, or there is none."""
    if any(each.name in keywords and each.name in COUNTS for each in places):
        return None
    free = [each for each in places if each.name not in keywords]
    if not free or free[0] is not places[0]:  # the first is given: whichever is needed then
        needed = [each for each in free if each.default is inspect.Parameter.empty]
        return next((each for each in needed if each.name in COUNTS), needed[0] if needed else None)
    others = [each for each in free[1:] if each.name in COUNTS and each.default is inspect.Parameter.empty]
    return others[0] if others and places[0].name not in COUNTS else places[0]


def not_first(custom, kind, channels, keywords, places, counted, more, rest):
    """``arguments_for`` a class whose first argument is another one: ``counted`` takes the number of channels, or what
    stands behind all that have a name, where it is None."""
    known = inspect.signature(kind).parameters
    given, left_out = {}, {}
    for word, value in keywords.items():
        found = next((name for name in custom.NAMES.get(word, (word,)) if name in known), None)
        if found is not None or rest:
            given[found or word] = value
        else:
            left_out[word] = value
    if counted is not None:
        given[counted.name] = channels
    lacks = [each.name for each in places if each.default is inspect.Parameter.empty and each.name not in given]
    if lacks:
        raise lacking(custom, kind, lacks, keywords, counted)
    if counted is not None:
        return [], given, left_out
    if not more or any(each.name in COUNTS for each in places):
        return [], given, left_out
    return [given.pop(each.name, each.default) for each in places] + [channels], given, left_out


def lacking(custom, kind, lacks, keywords, counted):
    error = custom.CustomLayerError(
        "%s%s needs %s, which bncheck does not know; it gives the number of channels, %s. Write a class that takes "
        "the number of channels and knows the rest"
        % (kind.__name__, inspect.signature(kind), " and ".join(lacks), ", ".join(sorted(keywords)))
    )
    error.lacks, error.counted = lacks, counted.name if counted is not None else ""
    return error


def missing_arguments(custom, norm):
    """Sentences about what the constructor has no argument for: what the layer shows to have instead, if anything."""
    name, found = type(norm).__name__, []
    for word, value in sorted(getattr(norm, "bncheck_left_out", {}).items()):
        as_asked, shows = instead(custom, norm, word, value)
        if as_asked:
            found.append("%s takes no %s: %s, as %s=%r asks" % (name, word, shows, word, value))
        else:
            found.append("%s takes no %s: the scenario asks for %s=%r, and %s" % (name, word, word, value, shows))
    return found


def instead(custom, norm, word, value):
    """(whether it shows to be as asked, what it shows) of one argument that could not be given."""
    if word in SWITCHES:
        what = SWITCHES[word]
        has = custom.find(norm, what) is not None
        shows = "it keeps %s" % what if has else "it keeps nothing called %s" % " or ".join(custom.NAMES[what])
        return has == bool(value), shows
    held = custom.find(norm, word) if word in custom.NAMES else None
    if isinstance(held, (int, float)):
        return held == value, "its %s is %r" % (word, held)
    if hasattr(held, "detach") and held.numel() == 1:
        return bool(held == value), "its %s is %.6g" % (word, held.item())
    return False, "what it uses instead is not known"


# ------------------------------------------------------------------------------------------------ its first values


class Start:
    """Puts the scenario's initial values into one layer; ``remarks`` are about those that it keeps its own instead of.

    A layer that keeps a state under a name unknown here would compute from values that nobody asked for: refused. Where
    nothing in it could be the state it has none, and is judged for that.
    """

    def __init__(self, torch, custom, norm):
        self.torch, self.custom, self.norm, self.name = torch, custom, norm, type(norm).__name__
        self.missing, self.remarks = [], []

    def put(self, what, value):
        held, value = self.custom.find(self.norm, what), self.custom.as_held(self.norm, what, value)
        if held is None:
            self.missing.append((what, value))
        elif not fill(held, value.to(held.dtype)):
            self.remarks.append(
                "%s holds %s in the shape %s: it keeps its own values, not the scenario's %d"
                % (self.name, what, tuple(held.shape), value.numel())
            )
        elif not (usual(what, value) or self.kept(held, what)):
            raise self.custom.CustomLayerError(
                "the scenario's initial %s cannot be put into %s: it works its %s out of other tensors. Make it a %s "
                "of its own, or take %s out of the scenario's `initial`" % (what, self.name, what, KEPT_IN[what], what)
            )

    def kept(self, held, what):
        """Whether the layer hands out again what was put into it: a property may make a new tensor at every look."""
        again = self.custom.find(self.norm, what)
        isnan = self.torch.isnan
        return again is held or bool(((again == held) | (isnan(again) & isnan(held))).all())

    def finish(self):
        """After the last value: those that may have their place under a name unknown here."""
        refused = [what for what, value in self.missing if not usual(what, value) and self.others(what)]
        if refused:
            whats, name, it = listed(refused), self.custom.NAMES[refused[0]][0], "them" if len(refused) > 1 else "it"
            raise self.custom.CustomLayerError(
                "the scenario's initial %s cannot be put into %s: %s. Hand %s out under such a name, as %s = "
                "property(lambda self: self.…) in the class does, or take %s out of the scenario's `initial`"
                % (whats, self.name, self.looked(refused), it, name, whats)
            )
        for what, _ in self.missing:
            others = self.others(what)
            if others and not any(usual(what, other) for other in others.values()):
                self.remarks.append(
                    "if %s keeps a %s, it begins with its own, and not with %g: %s"
                    % (self.name, what, USUAL[what], self.looked([what]))
                )

    def looked(self, whats):
        """Where bncheck looked for them in vain, and what there is instead."""
        names = list(dict.fromkeys(name for what in whats for name in self.others(what)))
        names = names[:8] + ["%d more" % (len(names) - 8)] * (len(names) > 8)
        wanted = ", and for ".join(" or ".join(self.custom.NAMES[what]) for what in whats)
        return "bncheck looks for %s; %s has %s" % (wanted, self.name, listed(names))

    def others(self, what):
        """{name: tensor} of what the layer keeps in that way and no neutral word is known for."""
        known = [self.custom.find(self.norm, word) for word in self.custom.NAMES]
        held = dict(self.norm.named_parameters())
        if KEPT_IN[what] == "buffer":
            held = {name: tensor for name, tensor in held.items() if not tensor.requires_grad}
            held.update(self.custom.kept_tensors(self.torch, self.norm))
        return {
            name: tensor
            for name, tensor in held.items()
            if tensor.is_floating_point() and not any(tensor is each for each in known)
        }


def usual(what, tensor):
    return bool((tensor == USUAL[what]).all())


def shapeless(module):
    """Names of lazy parameters and buffers, which have no shape before the first forward."""
    held = list(module.named_parameters()) + list(module.named_buffers())
    return [name for name, tensor in held if type(tensor).__name__.startswith("Uninitialized")]


def give_shapes(torch, custom, module, name, channels, rank):
    """Lazy parameters take their shape from a first forward: one in eval, which leaves the statistics alone."""
    if not shapeless(module):
        return
    modes, shape, why = [(each, each.training) for each in module.modules()], (2, channels) + (4,) * (rank - 2), ""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            module.eval()(torch.zeros(*shape))
    except Exception as error:
        why = ", which raises %s" % custom.said(error).split("\n")[0]
    for each, training in modes:
        each.training = training
    lazy = shapeless(module)
    if lazy:
        raise custom.CustomLayerError(
            "the scenario's initial values cannot be put into %s: before its first forward there is no shape of %s. "
            "bncheck tried an eval forward of zeros of the shape %s%s. Say the shape in the constructor"
            % (name, listed(lazy), shape, why)
        )


def listed(words):
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def fill(tensor, value):
    """Put one number per channel into a parameter or buffer of the layer's own shape; one value for all channels is
    filled where the numbers are the same. True if it was done."""
    if tensor.numel() == value.numel():
        tensor.copy_(value.reshape(tensor.shape))
    elif tensor.numel() == 1 and bool((value == value.reshape(-1)[0]).all()):
        tensor.fill_(value.reshape(-1)[0].item())
    else:
        return False
    return True
