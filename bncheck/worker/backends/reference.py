"""The reference: NumPy, two-pass moments, float64, every BatchNorm convention a parameter. An oracle, not a vote.

Plain ``reference`` follows the paper (Ioffe & Szegedy 2015, algorithms 1 and 2): statistics move in the training
forward, the biased variance normalises, the unbiased one is averaged; one value per channel has no unbiased variance,
so it refuses. ``reference[cudnn]`` and the like take a preset, ``reference[update_on=backward,variance_divisor=n]``
single rules, and ``reference[torch,dtype=float32]`` both: always *simulated*, never a measurement of that framework.

Python 3.7 syntax: this file also runs as a worker under old interpreters. The host imports it to replay conventions.
"""

import importlib.util
import os

import numpy as np

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
part = BESIDE.part_of("reference")

TITLE = "NumPy reference (simulated conventions)"
MODULE = ""
DISTRIBUTION = ""
DEFAULT_VERSION = ""
VARIANTS = {"": "the paper's convention", "*": "a preset and/or rules: cudnn, torch, mxnet, update_on=backward, …"}
DEVICES = ("cpu",)
CUSTOM = True  # the oracle for the user's own layer: it plays the rules that layer should have
# What people want of these: the statistics of the whole batch, a copy that follows in everything and stays apart, and
# each place of a layer that is used twice with statistics of its own.
REPLICAS = COPIES = SHARES = True
FILES = True  # the oracle for an existing ONNX file: the text of the opset that it declares
REQUIREMENTS = []
DOCUMENTED = []


# Every rule with its default. Facet names and values are those of bncheck/convention.py.
RULES = {
    "update_on": "forward",  # forward, backward, flush, eval, never, or several joined by "+"
    "update_without_grad": "yes",
    "updates_per_event": 1,
    "batch_weight": None,  # None: what the network's layer says
    "averaging": None,  # None: what the layer says; exponential, cumulative, debiased
    "variance_divisor": "n-1",
    "statistic": "variance",  # std, inverse-std, second-moment, swapped
    "train_normaliser": "batch",  # running-before, running-after, blend, none
    "eval_normaliser": "running",  # batch, blend, none
    "blend": 0.5,  # weight of the batch in a blend
    "eps": None,  # None: what the layer says
    "eps_placement": "inside",  # outside: 1 / (sqrt(var) + eps)
    "single_value": "refuses",  # nan, zero, identity, running: what y is at n = 1
    "single_value_state": "unchanged",  # updated, nan, mean-only
    "empty_batch": "unchanged",  # refuses, nan, updated
    "counter": "updates",  # none, forwards, updates
    "affine": "applied",  # ignored, gamma-fixed
    "arithmetic": "two-pass",  # one-pass: E[x²] − E[x]²
    "dtype": "float64",  # of all arithmetic
    "state_dtype": None,  # of the buffers; None: the arithmetic's
    "default_batch_weight": 0.1,
    "default_eps": 1e-5,
    "initial_mean": 0.0,  # where nobody sets them
    "initial_var": 1.0,
    "initial_gamma": 1.0,
    "initial_beta": 0.0,
}
PRESETS = {
    "torch": {"counter": "forwards"},
    "cudnn": {"single_value": "zero", "single_value_state": "nan", "counter": "none"},
    "mxnet": {
        "update_on": "backward", "update_without_grad": "no", "variance_divisor": "n", "counter": "none",
        "single_value": "zero", "single_value_state": "updated", "empty_batch": "refuses",
    },
    "keras": {
        "variance_divisor": "n", "counter": "none", "single_value": "zero", "single_value_state": "updated",
        "empty_batch": "nan", "default_batch_weight": 0.01, "default_eps": 1e-3,
    },
    "flax": {
        "variance_divisor": "n", "counter": "none", "single_value": "zero", "single_value_state": "updated",
        "empty_batch": "nan", "default_batch_weight": 0.01,
    },
    "haiku": {
        "variance_divisor": "n", "averaging": "debiased", "single_value": "zero", "single_value_state": "updated",
        "empty_batch": "nan",
    },
    "paddle": {
        "variance_divisor": "n", "counter": "none", "single_value": "identity", "single_value_state": "unchanged",
    },
    "onnx": {
        "variance_divisor": "n", "counter": "none", "single_value": "zero", "single_value_state": "updated",
        "empty_batch": "nan",
    },
}  # fmt: skip


def parse_rules(variant):
    """Rules of a variant text such as ``cudnn`` or ``torch,dtype=float32``; RuntimeError names what is unknown."""
    rules = dict(RULES)
    for part in [text.strip() for text in variant.split(",") if text.strip()]:
        name, equals, value = part.partition("=")
        if not equals:
            if name not in PRESETS:
                raise RuntimeError("unknown preset %r of the reference; there are %s" % (name, ", ".join(PRESETS)))
            rules.update(PRESETS[name])
        elif name not in RULES:
            raise RuntimeError("unknown rule %r of the reference; there are %s" % (name, ", ".join(RULES)))
        else:
            rules[name] = number(value)
    return rules


def number(text):
    if text == "nan":
        return text  # the name of a rule's value
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def round_to(array, dtype):
    """The array rounded to a dtype; bfloat16 (nearest, ties to even) is held in float32."""
    if dtype != "bfloat16":
        return np.asarray(array, dtype=dtype)
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    even = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = (even & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isfinite(array), rounded, np.asarray(array, dtype=np.float32))


def averaged_statistics(mean, var, n, rules):
    """(u for running_mean, u for running_var) of one batch: what the running average takes in, per channel."""
    wide = var * (n / (n - 1.0)) if rules["variance_divisor"] == "n-1" and n > 1 else var
    kind = rules["statistic"]
    if kind == "std":
        return mean, np.sqrt(wide)
    if kind == "inverse-std":
        return mean, 1.0 / np.sqrt(wide + rules["eps"])
    if kind == "second-moment":
        return mean, wide + mean * mean
    if kind == "swapped":
        return wide, mean
    return mean, wide


class BatchNorm:
    """One BatchNorm layer under given rules."""

    kind = "batch_norm"

    def __init__(self, layer, params, rules):
        name, channels = layer["name"], layer["channels"]
        self.rules = rules = dict(rules)
        self.axis = layer.get("axis", 1)
        given = {
            "batch_weight": layer.get("batch_weight"),
            "eps": layer.get("eps"),
            "averaging": layer.get("averaging"),
        }
        for key, fallback in (
            ("batch_weight", rules["default_batch_weight"]),
            ("eps", rules["default_eps"]),
            ("averaging", "exponential"),
        ):
            if rules[key] is None:
                rules[key] = fallback if given[key] is None else given[key]
        self.dtype = "float32" if rules["dtype"] == "bfloat16" else rules["dtype"]
        self.state_dtype = rules["state_dtype"] or self.dtype
        self.tracks = layer.get("track_running_stats", True)
        self.has_affine = layer.get("affine", True)

        def start(what, value):
            return round_to(
                np.array(params.get(name + "/" + what, np.full(channels, value)), dtype=np.float64), self.dtype
            )

        self.gamma, self.beta = start("gamma", rules["initial_gamma"]), start("beta", rules["initial_beta"])
        self.mean = round_to(start("running_mean", rules["initial_mean"]), self.state_dtype)
        self.var = round_to(start("running_var", rules["initial_var"]), self.state_dtype)
        self.queue = []  # batches that wait for a flush
        self.hidden = [self.mean * 0.0, self.var * 0.0]  # of a debiased average
        self.updates = self.var_updates = self.forwards = 0
        self.training = True

    # -- one forward ------------------------------------------------------------------------------------------

    def forward(self, x, mode):
        """(output, context for backward)."""
        if mode != "as_is":
            self.training = mode != "eval"
        rows = np.moveaxis(np.asarray(x, dtype=self.dtype), self.axis, 0)
        flat = rows.reshape(rows.shape[0], -1)
        out, context = self.forward_training(flat, mode) if self.training else self.forward_eval(flat)
        return np.moveaxis(out.reshape(rows.shape), 0, self.axis), (rows.shape, self.training) + context

    def forward_training(self, rows, mode):
        n = rows.shape[1]
        rule = self.rules["empty_batch"] if n == 0 else self.rules["single_value"]
        if n < 2 and rule == "refuses":
            raise ValueError("%d value%s per channel: no unbiased variance exists" % (n, "" if n == 1 else "s"))
        self.forwards += 1
        mean, var = self.moments(rows)
        moves = "forward" in self.rules["update_on"] and (
            mode != "no_grad" or self.rules["update_without_grad"] == "yes"
        )
        before = (self.mean, self.var)
        if moves:
            self.update(mean, var, n)
        if "flush" in self.rules["update_on"]:
            self.queue.append((mean, var, n))
        kind = self.rules["train_normaliser"]
        if n == 1 and rule != "zero":
            kind = {"nan": "nan", "identity": "bare", "running": "running-before"}[rule]
        used = self.normaliser(kind, (mean, var), before)
        return self.apply(rows, used, kind), (rows, mean, var, n, used, kind)

    def forward_eval(self, rows):
        n = rows.shape[1]
        batch = self.moments(rows) if n else (self.mean, self.var)
        before = (self.mean, self.var)
        if "eval" in self.rules["update_on"] and n > 1:
            self.update(batch[0], batch[1], n)
        kind = self.rules["eval_normaliser"] if self.tracks else "batch"
        kind = "running-before" if kind == "running" else kind
        used = self.normaliser(kind, batch, before)
        return self.apply(rows, used, kind), (rows, batch[0], batch[1], n, used, kind)

    def moments(self, rows):
        n = rows.shape[1]
        if not n:
            nothing = np.full(rows.shape[0], np.nan, dtype=self.dtype)
            return nothing, nothing
        mean = rows.sum(axis=1) / rows.dtype.type(n)
        if self.rules["arithmetic"] == "one-pass":
            return mean, (rows * rows).sum(axis=1) / rows.dtype.type(n) - mean * mean
        centred = rows - mean[:, None]
        return mean, (centred * centred).sum(axis=1) / rows.dtype.type(n)

    def normaliser(self, kind, batch, before):
        if kind in ("none", "bare"):
            return None
        if kind == "blend":
            share = self.rules["blend"]
            return tuple(share * new + (1 - share) * old for new, old in zip(batch, before))
        if kind == "nan":
            return batch[0] * np.nan, batch[1]
        return {"batch": batch, "running-before": before, "running-after": (self.mean, self.var)}[kind]

    def inverse(self, var):
        if self.rules["eps_placement"] == "outside":
            return 1 / (np.sqrt(var) + self.gamma.dtype.type(self.rules["eps"]))
        return 1 / np.sqrt(var + self.gamma.dtype.type(self.rules["eps"]))

    def affine(self):
        kind = self.rules["affine"]
        gamma = self.gamma * 0 + 1 if kind in ("ignored", "gamma-fixed") else self.gamma
        return gamma, (self.beta * 0 if kind == "ignored" else self.beta)

    def apply(self, rows, used, kind):
        if kind == "bare":
            return rows
        gamma, beta = self.affine()
        if used is None:
            return rows * gamma[:, None] + beta[:, None]
        scale = np.asarray(self.inverse(used[1]) * gamma, dtype=self.dtype)
        return (rows - np.asarray(used[0], dtype=self.dtype)[:, None]) * scale[:, None] + beta[:, None]

    # -- state ------------------------------------------------------------------------------------------------

    def update(self, mean, var, n):
        """Move the running statistics by one batch, ``updates_per_event`` times."""
        rules = self.rules
        if not self.tracks:
            return
        state = rules["single_value_state"] if n == 1 else rules["empty_batch"] if n == 0 else "updated"
        if state in ("unchanged", "refuses"):
            return
        new_mean, new_var = averaged_statistics(mean, var, n, rules)
        if n == 0 and state == "updated":
            new_mean, new_var = np.zeros_like(mean), np.zeros_like(var)
        if state == "nan":
            new_var = new_var * np.nan
        for _ in range(int(rules["updates_per_event"])):
            self.updates += 1
            self.mean = self.average(0, self.mean, new_mean, self.updates)
            if state != "mean-only":
                self.var_updates += 1
                self.var = self.average(1, self.var, new_var, self.var_updates)

    def average(self, which, held, new, count):
        """The running value after one more update; ``count`` is this value's own, a debiased average needs it."""
        rules = self.rules
        kind = held.dtype.type
        weight = kind(1.0 / count if rules["averaging"] == "cumulative" else rules["batch_weight"])
        debiased = rules["averaging"] == "debiased"
        moved = (kind(1) - weight) * (self.hidden[which] if debiased else held) + weight * new
        if debiased:
            self.hidden[which] = moved
            moved = moved / (kind(1) - (kind(1) - weight) ** count)
        return round_to(moved, self.state_dtype)

    def backward(self, context, dy):
        """(dx, {gamma, beta}) of one forward; moves the statistics when the rule says backward."""
        shape, training, rows, mean, var, n, used, kind = context
        flat = np.moveaxis(np.asarray(dy, dtype=self.dtype), self.axis, 0).reshape(rows.shape)
        if "backward" in self.rules["update_on"] and training:
            self.update(mean, var, n)
        grad, dgamma, dbeta = self.gradient(rows, flat, n, used, kind)
        return np.moveaxis(grad.reshape(shape), 0, self.axis), {"gamma": dgamma, "beta": dbeta}

    def gradient(self, rows, dy, n, used, kind):
        """Closed form: with batch statistics dx = γ·r·(dy − mean(dy) − x̂·mean(dy·x̂)), without them dx = γ·r·dy."""
        gamma, _ = self.affine()
        if kind == "bare":
            return dy, dy.sum(axis=1) * 0, dy.sum(axis=1) * 0
        if used is None or not n:
            return dy * gamma[:, None], (dy * rows).sum(axis=1), dy.sum(axis=1)
        scale = self.inverse(used[1])
        hat = (rows - used[0][:, None]) * scale[:, None]
        dgamma, dbeta = (dy * hat).sum(axis=1), dy.sum(axis=1)
        if kind in ("batch", "blend"):
            dy = dy - dbeta[:, None] / n - hat * dgamma[:, None] / n
        return dy * (gamma * scale)[:, None], dgamma, dbeta

    def flush(self):
        """Average what waited, first come first served."""
        waiting, self.queue = self.queue, []
        for batch in waiting:
            self.update(*batch)

    def state(self):
        found = {"training": int(self.training), "momentum": self.rules["batch_weight"], "eps": self.rules["eps"]}
        if self.has_affine:
            found.update(gamma=self.gamma, beta=self.beta)
        if self.tracks:
            found.update(running_mean=self.mean, running_var=self.var)
        if self.rules["counter"] != "none":
            found["counter"] = self.forwards if self.rules["counter"] == "forwards" else self.updates
        return found


KINDS = {"batch_norm": BatchNorm, **part("layers").KINDS}


def make(network, layer, params, rules):
    """One layer; BatchNorm gives way to whitening where the network's oracle says so."""
    if layer["type"] == "batch_norm" and network.get("oracle") == "whitening":
        count = 2 if network["parts"] == "complex" else network["parts"]
        return part("whitening").Whitening(layer, count, params, rules)
    return KINDS[layer["type"]](layer, params, rules)


class Model:
    """A network of the vocabulary; the worker's model contract."""

    def __init__(self, network, params, rules):
        for layer in network["layers"]:
            if layer["type"] not in KINDS:
                raise NotImplementedError("the reference has no layer %r" % layer["type"])
        self.parts = [(layer["name"], make(network, layer, params, rules)) for layer in network["layers"]]
        kinds = {layer["name"]: layer["type"] for layer in network["layers"]}
        self.norms = {name: made for name, made in self.parts if kinds[name] == "batch_norm"}
        ranks = range(1, len(network.get("replicas") or ()))
        self.alike = {name: [name] + ["%s@%d" % (name, rank) for rank in ranks] for name in self.norms}
        self.norms = {other: part for name, part in self.norms.items() for other in self.alike[name]}
        self.layers = list(self.norms)
        self.returns, self.view = network.get("returns"), "contiguous"
        self.dtype = "float32" if rules["dtype"] == "bfloat16" else rules["dtype"]
        self.seen, self.tape, self.used_up = {}, [], False

    def forward(self, x, mode):
        x = np.asarray(x)
        contexts, self.seen, returned = [], {}, None
        for name, part in self.parts:
            before = x
            x, context = part.forward(x if name in self.norms else np.asarray(x, dtype=self.dtype), mode)
            contexts.append(context)
            for other in self.alike.get(name, ()):
                self.seen[other] = (before, x)
            if name == self.returns:
                returned = x
        if mode in ("train", "as_is"):
            # A forward after a backward starts a new tape; several before one backward share it.
            self.tape = [contexts] if self.used_up else self.tape + [contexts]
            self.used_up = False
        return returned if returned is not None and mode == "eval" else x

    def checkpointed_forward(self, x):
        """A recomputation that is done right leaves no trace: the oracle plays it as a plain training forward."""
        return self.forward(x, "train")

    def reload(self, folder, drop=()):
        """Nothing gets lost on the way to the disk and back: the oracle stays as it is, whatever a file leaves out."""

    def draw_graph(self, folder, layer=None):
        """Arrays have no graph behind them: there is nothing to draw."""

    def backward(self, dys):
        """Gradients of the sum of dy·y over the taped forwards; the last forward is met first."""
        self.used_up = True
        total = {"input": None}
        for contexts, dy in zip(reversed(self.tape), reversed(dys)):
            for (name, part), context in zip(reversed(self.parts), reversed(contexts)):
                dy, found = part.backward(context, dy)
                for key, value in found.items():
                    full = name + "/" + key
                    total[full] = total[full] + value if full in total else value
            total["input"] = dy if total["input"] is None else total["input"]
        return total

    def taps(self):
        return self.seen

    def state(self, layer):
        return self.norms[layer].state()

    def axis(self, layer):
        return self.norms[layer].axis

    def set_mode(self, training, layer=None):
        for name, norm in self.norms.items():
            if layer in (None, name):
                norm.training = training

    def flush(self):
        for norm in self.norms.values():
            norm.flush()


class Copied:
    """A network with a copy: an update gives the copy the network's statistics, and nothing else connects the two."""

    view = "contiguous"

    def __init__(self, model, second):
        self.model, self.second = model, second
        self.layers = [name + end for name in model.layers for end in ("", "@copy")]

    def __getattr__(self, name):
        return getattr(self.model, name)

    def update_copy(self, x):
        for name, norm in self.model.norms.items():
            other = self.second.norms[name]
            for held in ("gamma", "beta", "mean", "var", "updates", "var_updates", "forwards"):
                setattr(other, held, getattr(norm, held))
            other.hidden = list(norm.hidden)

    def train_copy(self, x):
        return {"output": self.second.forward(x, "train")}

    def eval_copy(self, x):
        return {"output": self.second.forward(x, "eval")}

    def state(self, layer):
        name, _, copy = layer.partition("@")
        found = dict((self.second if copy else self.model).state(name))
        if copy:
            del found["training"]  # nobody sets the copy's mode but the event that runs it
        return found

    def axis(self, layer):
        return self.model.axis(layer.partition("@")[0])


def describe(variant, device):
    rules = parse_rules(variant)
    changed = {name: value for name, value in rules.items() if value != RULES[name]}
    return {"version": "", "simulated": bool(changed), "rules": changed, "accumulates": rules["dtype"]}


def build(network, params, dtype, variant, device):
    if network.get("file"):
        if variant:
            raise NotImplementedError("a file is played by the rules of its opset: use the reference without a variant")
        return part("oracle", "onnx").model_of(part("file", "onnx"), network["file"])
    rules = parse_rules(variant)
    model = Model(network, params, rules)
    return Copied(model, Model(network, params, rules)) if network.get("copied") else model
