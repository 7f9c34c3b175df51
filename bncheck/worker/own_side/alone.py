"""Layers of the user's inside a model, each taken out and played by itself, beside the framework's own layer.

What a layer computes shows best on inputs that tell rules apart: unlike means and spreads, gammas and betas that are
not 1 and 0. So the very object that the model holds is played, with the settings that it holds, as check plays a class
(own_side/look.py). The arrays of both traces are called ``alone:<place>:<own or builtin>:<array of a trace>``, colons
in the place of its strokes. The model is not used afterwards. Loaded by path; Python 3.7 syntax.
"""

import types

import numpy as np

MEAN, STD = (0.5, -2.0, 3.0, 0.0), (1.0, 0.5, 2.0, 0.02)  # the last: eps shows in a small variance
START = {"gamma": (1.5, 0.8, -0.6, 1.2), "beta": (0.5, -1.0, 0.0, 2.0), "running_mean": (0.3, -0.7, 0.1, 0.4),
         "running_var": (1.3, 0.7, 2.1, 0.9)}  # fmt: skip
SAMPLES, SIDE = 8, 6
LARGEST = 1 << 20  # values of a batch: a layer that takes no smaller one is not played
MOST = 24  # layers of one model
MANY = 4  # layers
ENOUGH = "of one model no more than %d layers with settings of their own are" % MOST
REPEATS = 4
WEIGHT, EPS = 1e-3, 0.05  # how near a number that it holds is to what it does
EVENTS = ["train_forward", "backward"] * REPEATS + ["eval_forward"]
MODES = ("training", "built", "use_running_average", "deterministic")
NAMES = ("name", "_name", "_full_name", "_prefix", "_scope", "_path", "prefix")  # what no two layers share


class Given:
    """A layer that is there, where a backend expects the name of a class to construct one from."""

    def __init__(self, layer):
        self.layer = layer

    def __repr__(self):
        return "Given(%d)" % id(self.layer)

    def rpartition(self, sep):
        """As a name's: it has no file whose lines an error could name."""
        return "", "", type(self.layer).__name__


def play(part, target, variants, found, ops):
    """([what is said of each layer that was played], {name: array}). ``found``: {name: (layer, its facts)}; a fact is
    ``shape`` of its input, ``axis``, ``channels``, ``eps`` and ``weight`` (its momentum as the weight of the new batch)
    as it holds them or None, ``has`` (which of its state is found), ``root`` (the class of all layers); where these are
    said, ``single`` (what of it is one number for all channels), ``form`` (what it holds in the place of a variance),
    ``why`` it cannot be played, and ``play`` (what is played in its place). ``variants``: the backend's, of a layer of
    the user's and of the built-in; ``ops``: what events are, as jobs say it. Of layers of one class with the same
    settings the first is played."""
    backend, cells, said, arrays = part("backends", target), part("", "cell"), [], {}
    usual = documented(backend)
    for place, names in enumerate(alike(found)):
        layer, facts = found[names[0]]
        facts = dict(facts, own=numbers(layer), shape=shape_of(facts))
        row = {
            "names": names,
            "class": type(layer).__name__,
            "bases": bases(layer, facts["root"]),
            "axis": facts["axis"],
            "channels": facts["channels"],
            "shape": facts["shape"],
            "has": list(facts["has"]),
            "single": list(facts.get("single", ())),
            "form": facts.get("form", ""),
            "events": EVENTS,
        }
        if facts.get("apart"):
            said.append(dict(row, why="", apart=facts["apart"]))
            continue
        facts.update((word, usual[word]) for word in usual if facts[word] is None)
        why = ENOUGH if place >= MOST else facts.get("why", "")
        mine, why = (
            ({}, why) if why else played(cells, backend, facts, Given(facts.get("play", layer)), variants[0], ops)
        )
        asked = settled(mine, facts) if not why else {}
        theirs, why = ({}, why) if why else played(cells, backend, dict(facts, **asked), None, variants[1], ops)
        held = facts["weight"] if not why else None
        said.append(dict(row, why=why, held=held, **{word: asked.get(word) for word in usual}))
        for who, kept in (("own", mine), ("builtin", theirs)):
            arrays.update(
                (":".join(["alone", str(place), who, key.replace("/", ":")]), value) for key, value in kept.items()
            )
    return said, arrays


def alike(found):
    """Lists of names: layers of one class with the same settings."""
    held = {name: switches(layer, facts["channels"]) for name, (layer, facts) in found.items()}
    kinds, groups = {}, {}
    for name, (layer, _) in found.items():
        kinds.setdefault(type(layer), []).append(held[name])
    unlike = {kind: numbering(rows) for kind, rows in kinds.items()}
    for name, (layer, facts) in found.items():
        own = sorted(item for item in held[name].items() if item[0] not in unlike[type(layer)])
        key = (type(layer), facts["eps"], facts["weight"], tuple(facts["has"]), tuple(own))
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def numbering(rows):
    """Settings of one class that no two of many layers share, fractions aside: names and numbers of layers."""
    if len(rows) < MANY:
        return []
    count = {name: len({row.get(name) for row in rows}) for row in rows for name in row}
    fractions = {name for row in rows for name, (kind, _) in row.items() if kind == "float"}
    return [name for name, each in count.items() if each == len(rows) and name not in fractions]


def documented(backend):
    """{"eps", "weight"} of the built-in layer where nobody says."""
    facets = next(row["facets"] for row in backend.DOCUMENTED if "default_eps" in row["facets"])
    return {"eps": facets["default_eps"], "weight": facets["default_batch_weight"]}


def played(cells, backend, facts, given, variant, ops):
    """(arrays of its trace, "") or ({}, why there are none)."""
    network = {"layers": [spec_of(facts)], "returns": None, "custom": given}
    events = [{"op": op, "input": "main", "batch": batch_of(number)} for number, op in enumerate(EVENTS)]
    job = {"network": network, "dtype": "float32", "ops": ops, "sample": 4096, "events": events}
    try:
        cell = cells.Cell(job, inputs_of(facts), backend, {"variant": variant, "device": "cpu"}, None)
        other = [each for texts in getattr(cell.model, "remarks", {}).values() for each in texts]
        cell.play()
        why = next(iter(other + [item["error"] for item in cell.failed]), "")
        return ({}, why) if why else (cell.recorder.arrays(), "")
    except (Exception, SystemExit) as error:
        return {}, "%s: %s" % (type(error).__name__, str(error)[:300])


# --------------------------------------------------------------------------- what the built-in layer is to be given


def switches(layer, channels):
    """{name: (type, value)} of its plain settings, by which two layers of a class differ: numbers, flags, words and
    methods of its own; its modes, and how many channels it has, left out."""
    held = getattr(layer, "__dict__", {})
    told = {name: setting(each) for name, each in held.items() if name not in MODES + NAMES}
    return {name: each for name, each in told.items() if each not in (None, ("int", channels))}


def setting(value):
    """(type, value) of a plain setting: 1 and True are two; a method is where its code lies. None for all else."""
    if isinstance(value, (int, float, str)):
        return type(value).__name__, value
    own = isinstance(value, (types.FunctionType, types.MethodType))  # others may raise whatever they are asked
    return ("method", id(value.__code__)) if own else None


def numbers(layer):
    """What it holds besides in plain attributes, as an eps or a momentum of another name."""
    held = getattr(layer, "__dict__", {}).values()
    return [float(each) for each in held if isinstance(each, float) and 0.0 < each < 1.0]


def settled(arrays, facts):
    """{"eps", "weight"} of a BatchNorm with this layer's settings. A layer may hold them under names of its own, and
    may call either share of an average its momentum: what it does with one says which, where the new batch weighs less
    than half, as everybody lets it."""
    eps, weight = shown(arrays)
    found = {"eps": facts["eps"], "weight": facts["weight"]}
    held = [each for number in facts["own"] for each in (number, 1.0 - number)]
    near = [each for each in held + [1.0 - facts["weight"]] if abs(each - weight) < WEIGHT]
    if near and WEIGHT < weight < 0.5 and abs(weight - facts["weight"]) > WEIGHT:
        found["weight"] = float("%.6g" % near[0])
    same = [each for each in facts["own"] if abs(each - eps) < EPS * each]
    if same and abs(eps - facts["eps"]) > EPS * facts["eps"]:
        found["eps"] = same[0]
    return found


def shown(arrays):
    """(eps, weight of the new batch) that its first training forward shows; NaN where it shows none."""
    mean, before = arrays["bn/input_mean"][0], arrays["bn/running_mean"][0]
    with np.errstate(all="ignore"):
        eps = np.nanmin(np.abs(1.0 / arrays["bn/used_invstd"][0] ** 2 - arrays["bn/input_var"][0]))
        gap = mean - before
        weight = np.sum(gap * (arrays["bn/running_mean"][1] - before)) / np.sum(gap * gap)
    return float(eps), float(weight)


def bases(layer, root):
    """Names of its class and of those that it is made from, up to the framework's class of all layers."""
    return [kind.__name__ for kind in type(layer).__mro__ if not issubclass(root, kind)]


def batch_of(number):
    """Of an event: a backward goes through the forward before it."""
    return min(number // 2, REPEATS)


def spec_of(facts):
    return {
        "name": "bn",
        "type": "batch_norm",
        "channels": facts["channels"],
        "axis": facts["axis"],
        "rank": len(facts["shape"]),
        "batch_weight": facts["weight"],
        "eps": facts["eps"],
        "averaging": "exponential",
        "affine": "gamma" in facts["has"],
        "track_running_stats": True,
        "native": {},
        "options": {},
    }


def shape_of(facts):
    """A few samples of what the layer gets in the model, and few positions."""
    shape = [min(size, SIDE) for size in facts["shape"]]
    shape[0], shape[facts["axis"]] = SAMPLES, facts["channels"]
    return shape


def inputs_of(facts):
    """Distinct batches, gradients, and the state that both layers begin with."""
    shape = facts["shape"]
    dice, wide = np.random.default_rng(0), [1] * len(shape)
    wide[facts["axis"]] = facts["channels"]

    def cycled(values):
        return np.resize(np.array(values), facts["channels"])

    x = dice.standard_normal([REPEATS + 1] + shape) * cycled(STD).reshape(wide) + cycled(MEAN).reshape(wide)
    found = {"x/main": x.astype("float32"), "dy/main": dice.standard_normal([REPEATS + 1] + shape).astype("float32")}
    starts = {what: START[what][:1] if what in facts.get("single", ()) else START[what] for what in facts["has"]}
    found.update(("param/bn/" + what, cycled(start).astype("float32")) for what, start in starts.items())
    return found
