"""A model of the user's in a framework other than PyTorch, as it was handed over and through a short life: inference,
in other batches, training, inference.

Loaded by path, Python 3.7 syntax; no framework is known here. ``model`` is a backend's model of a whole network with
``hands``, ``norms`` ({name: layer}), ``find(layer, what)``, ``seen`` (whole.py: each layer's calls in the last
forward), ``always(name)``, ``modules(net)``, ``followed(modules)``, ``evaluated(net, batch)``, ``in_training(net,
batch)`` and ``descend(dy, rate)`` beside the worker's contract. It answers in the words of subject/model.py; what its
layers hold goes to ``held.npz``, what they live through to ``recording.npz`` (``<layer>/<quantity>``,
docs/recording.md).
"""

import os

import numpy as np

LEARNING_RATE = 1e-3
PARTS = (1, 3)  # sizes of the other batches
RANDOM = 1e-5  # relative difference of two runs from which on a layer's output is random, in inference too
MOST_BYTES = 2 << 30
HELD = ("running_mean", "running_var", "gamma", "beta")
# What is known of a layer that runs more than once in a forward: each of its calls got something else.
OF_ALL_CALLS = ("index", "step", "training", "gradients", "in_backward", "n", "samples", "input_bad", "output_bad",
                "mean_before", "mean_after", "var_before", "var_after", "eps", "momentum", "gamma", "beta")  # fmt: skip
POWERED = "it averages the deviation of each batch, or one over it, where BatchNorm averages the variance"


def play_built(part, failed, job, folder, hands, version):
    """A model that a backend of the worker builds by itself."""
    custom, shared = part("torch_side", "custom"), part("own_side", "layer")
    if job["weights"]:
        raise failed(
            "--weights is for models of PyTorch and Keras, and this is one of %s" % hands.title,
            "load them in the function that builds the model",
            "usage",
        )
    if not job["inputs"] and not job["data"]:
        raise failed(
            "a model of %s does not say what it takes" % hands.title, "give its shape: --input 8,3,32,32", "usage"
        )
    network = {"model": "%s:%s" % (job["module"], job["name"]), "arguments": job["with"], "output": "*", "layers": []}
    try:
        model = part("backends", hands.target).build(network, {}, "float32", "", "cpu")
    except custom.CustomLayerError as error:
        raise failed(getattr(error, "short", str(error)), "correct it; it is imported by %s" % job["python"])
    net = model.root()
    about = {"class": type(net).__name__, "version": version, "weights": None}
    return dict(play(part, shared, failed, job, folder, model, about, others), framework=hands.target)


def others(model):
    """{name: shape} of what is trained and is no BatchNorm's."""
    own = {id(model.find(layer, what)) for layer in model.norms.values() for what in ("gamma", "beta")}
    learned = model.hands.learned(model.root())
    return {name: list(each.shape) for name, each in learned.items() if id(each) not in own}


def play(part, shared, failed, job, folder, model, about, others):
    """``about``: class, version and weights (what was loaded); ``others(model)``: {name: shape} of what is no
    BatchNorm's."""
    custom = part("torch_side", "custom")
    batch, how = choose(failed, model, job)
    try:
        model.settle(batch)
    except custom.CustomLayerError as error:
        raise failed(getattr(error, "short", str(error)), "correct it, or give a batch that it takes: --data batch.npz")
    hold(shared, model, folder)
    found = {
        "kind": "model",
        "input": how,
        "layers": [describe(model, name) for name in model.norms],
        "others": others(model),
        "training": None,
        "remarks": [],
        "output": [],
        "batches": None,
        "steps": 0,
        "loss": None,
        **about,
    }
    life = Life(part("", "recorder"), model, batch)
    phases = [
        ("eval", lambda: life.evaluate(found)),
        ("training", lambda: life.train(found, job["steps"])),
        ("eval after training", lambda: life.evaluate({})),
    ]
    for name, action in phases if job["steps"] else phases[:1]:
        life.happen("phase", name)
        try:
            action()
        except (Exception, SystemExit) as error:
            said = "%s%s" % (in_a_line(custom.said(error))[:400], custom.line_in(job["module"], error))
            found["remarks"].append("%s was not played: %s" % (name, said))
            break
    np.savez(os.path.join(folder, "recording.npz"), **life.arrays())
    found["happenings"] = life.happenings
    found["remarks"] += getattr(model, "manner", list)()
    found["shown"] = part("own_side", "unusual").taken(shared, model.norms)
    found.update(part("own_side", "places").seen(shared, model, batch))
    found["alone"], found["unplayed"] = alone(part, shared, model, found["layers"], life.shapes, folder, job["ops"])
    return found


def in_a_line(text):
    """The first line of what an error says; the last where MXNet puts its own traceback before that."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return "%s: %s" % (lines[0].partition(":")[0], lines[-1]) if "Traceback" in lines[0] else lines[0]


def alone(part, shared, model, layers, shapes, folder, ops):
    """(what is said of the user's own layers, each played by itself (alone.py), {name: why one is not}): the model's
    end."""
    getattr(model, "untap", lambda: None)()
    told = {each["name"]: facts(shared, model, each["name"], shapes) for each in layers if each["own"]}
    found = {name: (model.norms[name], each) for name, each in told.items() if isinstance(each, dict)}
    why = {name: each for name, each in told.items() if name not in found}
    if not found:
        return [], why
    said, arrays = part("own_side", "alone").play(part, model.hands.target, model.variants, found, ops)
    np.savez(os.path.join(folder, "alone.npz"), **arrays)
    return said, why


def facts(shared, model, name, shapes):
    """Of a layer that alone.py can play; why not, a text, of any other."""
    hands, layer = model.hands, model.norms[name]
    own = shared.standing(hands, layer)
    held = {what: own.find(what) for what in HELD}
    known = {id(each) for each in held.values() if each is not None}
    if name not in shapes:
        return "it did not run in training, or gives more than one tensor"
    more = [each for each in hands.weights(layer) if id(each) not in known]
    if more:
        names = [word for word, each in hands.learned(layer).items() if each is more[0]]
        return "it learns %s, which is not known to be its gamma or beta" % (names[0] if names else "something else")
    # Frozen from outside, for fine-tuning: what the layer computes is the question.
    hands.thaw([held[what] for what in ("gamma", "beta") if held.get(what) is not None])
    momentum, axis = number(own.find("momentum")), model.axis(name)
    channels = int(np.prod(held["running_mean"].shape))
    if len(shapes[name]) < 2 or shapes[name][axis] != channels:
        text = "its %d statistics are no number for each channel of its input, %s"
        return text % (channels, tuple(shapes[name]))
    return {
        "shape": list(shapes[name]),
        "axis": 1 if axis == 1 else -1,
        "channels": channels,
        "eps": number(own.find("eps")),
        "root": hands.base,
        "weight": None if momentum is None else float("%.12g" % (1.0 - momentum)),
        "has": [what for what, each in held.items() if each is not None],
        "apart": POWERED if power_of(held["running_var"]) != 1 else "",
    }


def power_of(held):
    return getattr(held, "power", 1)


# ---------------------------------------------------------------------------------------------------- what it holds


def hold(shared, model, folder):
    arrays = {}
    for place, layer in enumerate(model.norms.values()):
        for what in HELD:
            variable = model.find(layer, what)
            if variable is not None:
                arrays["%d/%s" % (place, what)] = np.array(model.hands.array(variable))
                arrays["%d/%s/dtype" % (place, what)] = np.array(dtype_of(variable))
                arrays["%d/%s/key" % (place, what)] = np.array(shared.name_of(model.hands, layer, what))
    np.savez(os.path.join(folder, "held.npz"), **arrays)


def dtype_of(variable):
    dtype = variable.dtype
    return np.dtype(dtype).name if isinstance(dtype, type) else str(dtype).rpartition(".")[2]


def describe(model, name):
    layer = model.norms[name]
    return {
        "name": name,
        "kind": type(layer).__name__,
        "training": None,
        "tracks": True,
        "cumulative": False,
        "own": type(layer).__module__.partition(".")[0] != model.hands.target,
        "eps": number(model.find(layer, "eps")),
        "momentum": number(model.find(layer, "momentum")),
        "always": model.always(name),
        "trainable": trainable(model, layer),
        "dtypes": {what: dtype_of(model.find(layer, what)) for what in HELD if model.find(layer, what) is not None},
    }


def trainable(model, layer):
    """Whether its gamma or beta is trained; None where it has none."""
    held = [each for each in (model.find(layer, what) for what in ("gamma", "beta")) if each is not None]
    return any(model.hands.trains(each) for each in held) if held else None


def number(value):
    return None if value is None else float(value)


# ------------------------------------------------------------------------------------------------- what it is given


def choose(failed, model, job):
    if job["data"]:
        x = from_data(failed, job["data"])
        return x, said("data", x)
    if len(job["inputs"]) > 1:
        raise failed(
            "a model of %s is given one input so far, and --input stands twice" % model.hands.title, "name one", "usage"
        )
    if job["inputs"]:
        x = made(job["inputs"][0]["dtype"], job["inputs"][0]["shape"])
        return x, said("input", x)
    x = made(*model.declared(failed))
    return x, said("made", x)


def said(where, x):
    return {"from": where, "shapes": [{"dtype": str(x.dtype), "shape": list(x.shape)}]}


def made(dtype, shape):
    dice = np.random.default_rng(0)
    if dtype.startswith(("int", "uint", "bool")):
        return dice.integers(0, 2, shape).astype(dtype)
    return dice.standard_normal(shape).astype("float32" if dtype == "bfloat16" else dtype)


def from_data(failed, path):
    """The first array of an .npz, or an .npy; nothing in either is executed."""
    if not path.endswith((".npz", ".npy")) or os.path.getsize(path) > MOST_BYTES:
        raise failed("--data: %s is no .npz or .npy of modest size" % path, "save it with numpy.savez", "usage")
    try:
        held = np.load(path, allow_pickle=False)
        x = held[held.files[0]] if hasattr(held, "files") else held
    except (ValueError, OSError, EOFError, IndexError) as error:
        raise failed(
            "--data: %s cannot be read: %s" % (path, error), "save it with numpy.savez, without objects", "usage"
        )
    if x.dtype.kind not in "fiub" or not x.ndim:
        raise failed("--data: %s holds no array of numbers" % path, "save the batch with numpy.savez", "usage")
    return x.astype("float32") if x.dtype.kind == "f" else x


# --------------------------------------------------------------------------------------------------------- its life


class Life:
    """Forwards one after the other, each layer's with its state before and after."""

    def __init__(self, recorder, model, batch):
        self.recorder, self.model, self.batch = recorder, model, batch
        self.rows, self.index, self.step, self.happenings = {name: [] for name in model.layers}, 0, 0, []
        self.shapes = {}  # layer: of its input in training
        self.several = set()  # layers that run more than once in a forward
        self.learns = bool(model.hands.trained(model.root()))
        model.to_the_input = False  # in training nobody goes back so far, and MXNet moves statistics on that way

    def happen(self, what, name):
        self.happenings.append({"what": what, "index": self.index, "step": self.step, "name": name})

    def forward(self, x, mode):
        before = {name: self.model.state(name) for name in self.model.layers}
        out = self.model.forward(x, mode)
        self.several |= {name for name, calls in self.model.seen.items() if len(calls) > 1}
        for name, (given, result) in self.model.taps().items():
            after = self.model.state(name)
            self.rows[name].append(self.row(name, mode, given, result, before[name], after))
            if self.rows[name][-1]["training"]:
                self.shapes[name] = given.shape
            self.index += 1
        return out

    def row(self, name, mode, given, result, before, after):
        record, axis = self.recorder, self.model.axis(name)
        rows, out = record.channel_rows(given, axis), record.channel_rows(result, axis)
        mean, var, centred = record.moments(rows)
        gamma, beta = before.get("gamma", 1.0), before.get("beta", 0.0)
        used_mean, used_invstd, residual = record.reveal(centred, mean, var, out, gamma, beta)
        spread = np.abs(out - np.reshape(beta, (-1, 1))).max() if out.size else np.nan
        return {
            "index": self.index,
            "step": self.step,
            "training": int(bool(self.model.seen[name][-1][2])),
            "gradients": int(mode == "train" and self.learns),
            "in_backward": 0,
            "n": rows.shape[1],
            "samples": given.shape[0],
            "input_mean": mean,
            "input_var": var,
            "input_bad": int((~np.isfinite(rows)).sum()),
            "output_bad": int((~np.isfinite(out)).sum()),
            "mean_before": before["running_mean"],
            "mean_after": after["running_mean"],
            "var_before": before["running_var"],
            "var_after": after["running_var"],
            "eps": before.get("eps", np.nan),
            "momentum": before.get("momentum", np.nan),
            "used_mean": used_mean,
            "used_invstd": used_invstd,
            "used_residual": float(np.max(residual) / spread) if spread else np.nan,
            "output_scale": float(out.std()) if out.size else np.nan,
            **{what: before[what] for what in ("gamma", "beta") if what in before},
        }

    def evaluate(self, found):
        out = self.forward(self.batch, "eval")
        first = dict(self.model.taps())
        found["output"] = [{"name": "output", "shape": list(out.shape), "bad": int((~np.isfinite(out)).sum())}]
        found["batches"] = self.in_batches(first, out)

    def in_batches(self, whole, out):
        """How far each layer's input and output in inference depend on who else is in the batch."""
        size = len(self.batch)
        if size < 2:
            return None
        again, whole = self.tapped(self.batch), dict(whole, **{"": (out, out)})
        kept = {name: each for name, each in whole.items() if gap(each[1], again[name][1]) < RANDOM}
        found = {}
        for part in [part for part in PARTS if part < size]:
            less = self.tapped(self.batch[:part])
            for name, pair in kept.items():
                if len(pair[1]) != size or len(less[name][1]) != part:
                    continue
                gaps = [gap(one[:part], two) for one, two in zip(pair, less[name])]
                found[name] = [max(one, two) for one, two in zip(found.get(name, [0.0, 0.0]), gaps)]
        return {"sizes": [part for part in PARTS if part < size], "samples": size, "layers": found}

    def tapped(self, x):
        out = self.model.forward(x, "eval")
        return dict(self.model.taps(), **{"": (out, out)})

    def train(self, found, steps):
        """Steps of plain gradient descent on the mean of the squares of its output."""
        losses = []
        for _ in range(steps):
            out = self.forward(self.batch, "train")
            losses.append(float(np.mean(np.square(out.astype(np.float64)))))
            self.model.descend(2 * out / max(out.size, 1), LEARNING_RATE)
            self.settle()
            self.step += 1
        found["steps"], found["loss"] = steps, losses

    def settle(self):
        """Statistics that a backward moves belong to the forward before it."""
        for name in self.model.taps():
            now = self.model.state(name)
            self.rows[name][-1].update(mean_after=now["running_mean"], var_after=now["running_var"])

    def arrays(self):
        return {
            "%s/%s" % (name, what): np.array([row[what] for row in rows])
            for name, rows in self.rows.items()
            for what in (rows[0] if rows else ())
            if self.tells(name, what)
        }

    def tells(self, name, what):
        """Whether a quantity is one of each forward: not where a layer runs more than once in one, and no variance
        where it averages something else."""
        if what in ("var_before", "var_after"):
            return power_of(self.model.find(self.model.norms[name], "running_var")) == 1
        return what in OF_ALL_CALLS or name not in self.several


def gap(one, two):
    """Largest difference over the largest value; infinite where one side alone is not finite."""
    if one.shape != two.shape or not one.size:
        return 0.0
    one, two = one.astype(np.float64), two.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(two)
    if not finite.all():
        return 0.0 if np.array_equal(np.isfinite(one), np.isfinite(two)) else float("inf")
    largest = float(np.abs(one).max())
    return float(np.abs(one - two).max()) / largest if largest else float(np.abs(one - two).max() > 0)
