"""What people do with a layer besides calling it: move it, convert it, copy it, save and load it, switch it to eval.

Loaded by backends/torch.py by path. Python 3.7 syntax. Every action is tried on the layer of the user's own and on the
built-in one; the answer is "ok", "unavailable: …", or a sentence that says what the own layer does otherwise. What the
built-in layer refuses as well is no fault. ``Trial`` makes fresh layers, so that no action meets what another one left.
"""

import copy

# dtype: how far an output may be from that of the same layer in float32, relative to 1 (outputs are normalised).
DTYPES = {"float64": 1e-4, "float16": 5e-2, "bfloat16": 3e-1}
STATES = ("running_mean", "running_var", "gamma", "beta")
EXACT = 1e-9  # two layers in float64 that compute the same


class Trial:
    """``own`` and ``builtin`` make fresh layers; ``builtin`` is None where the layer takes its channels in parts;
    ``untouched`` makes built-in ones with their own gamma and beta."""

    def __init__(self, torch, custom, own, builtin, data, device, has_complex, untouched=None):
        self.torch, self.custom = torch, custom
        self.own, self.builtin = self.seeded(own), self.seeded(builtin) if builtin is not None else None
        self.untouched = untouched
        self.complex = has_complex
        # As behind another layer: on a plain leaf a buffer that keeps its graph would have none to keep.
        self.data, self.device = data.clone().requires_grad_(), device

    def seeded(self, make):
        """Layers that draw numbers draw the same ones: two fresh ones are alike, whatever is then done to one."""

        def fresh():
            self.seed(0)
            return make()

        return fresh

    def seed(self, number):
        """``manual_seed``; where there is no GPU, of the CPU alone: torch keeps a whole stack for each GPU that may
        come, which took two thirds of these trials."""
        alone = str(self.device).startswith("cpu") and not self.torch.cuda.is_available()
        (self.torch.random.default_generator if alone else self.torch).manual_seed(number)

    def all(self):
        """{action: answer}; the random numbers of the program go on as if nothing had been tried."""
        with self.torch.random.fork_rng():
            return self.tried()

    def tried(self):
        found = {"a new layer": self.answer(self.started)} if self.untouched is not None else {}
        found.update((".to(%s)" % name, self.answer(lambda n=name: self.converted(n))) for name in DTYPES)
        found[".cuda()"] = self.answer(self.on_cuda)
        found["deepcopy"] = self.answer(self.copied)
        found["save and load"] = self.answer(self.reloaded)
        if self.builtin is not None:
            found["load_state_dict of the built-in layer"] = self.answer(self.takes_builtin_state)
        found["eval"] = self.answer(self.evaluated)
        found["no_grad"] = self.answer(self.without_grad)
        return found

    def answer(self, action):
        try:
            return action() or "ok"
        except Exception as error:
            return "raises %s" % short(self.custom.said(error))

    def started(self):
        """The state of a fresh layer: a case is played from the scenario's own, whatever the constructor sets."""
        own, usual, again = self.own(), self.untouched(), self.untouched()
        found = []
        for what in STATES:
            mine, theirs, other = (self.custom.find(norm, what) for norm in (own, usual, again))
            if not all(isinstance(held, self.torch.Tensor) for held in (mine, theirs, other)):
                continue
            kept = [*own.parameters(), *self.custom.kept_tensors(self.torch, own).values()]
            if not any(mine is held for held in kept):
                continue  # worked out of others, before there is anything to work it out of
            mine, theirs = mine.detach().reshape(-1), theirs.detach().reshape(-1)
            if not same(theirs, other.detach().reshape(-1)):
                continue  # torch 1.1 draws gamma
            if len(mine) not in (1, len(theirs)) or is_complex(mine) or is_complex(theirs):
                continue
            if not bool((mine.double() == theirs.double()).all()):
                found.append("%s %s instead of %s" % (what, values(mine), values(theirs)))
        return "starts with %s; the case sets them itself" % ", ".join(found) if found else None

    def trained(self, make, steps=2):
        """A fresh layer after some training steps."""
        norm = make().to(device=self.device)
        norm.train()
        for _ in range(steps):
            norm(self.data)
        return norm

    # -- conversions ------------------------------------------------------------------------------------------

    def converted(self, name):
        dtype = getattr(self.torch, name, None)
        if dtype is None:
            return "unavailable: torch %s has no %s" % (self.torch.__version__, name)
        if self.complex and name != "float64":
            return "unavailable: torch has no complex arithmetic in %s" % name
        builtin = self.refusal(lambda: self.play(self.builtin, dtype)) if self.builtin is not None else None
        own = self.refusal(lambda: self.play(self.own, dtype))
        if own is not None:
            if self.builtin is None and "not implemented for" in own:
                return "unavailable: %s" % own  # a kernel that torch lacks; no built-in layer shows the way
            return None if builtin is not None else "raises %s" % own
        norm, out = self.play(self.own, dtype)
        usual = out if self.builtin is None or builtin is not None else self.play(self.builtin, dtype)[1]
        plain = self.own().to(device=self.device).train()(self.data).detach()
        if out.dtype != dtype:
            return "gives an output of %s" % word(out.dtype)
        narrow = self.kept(norm, dtype)
        if narrow:
            return "keeps %s" % narrow
        if bool(is_nan(plain).any()):
            return None  # not a number before anything was converted
        if self.draws(plain):
            return "unavailable: it draws random numbers, other ones in each dtype"
        if gap(out, plain) > DTYPES[name]:
            return "its output is %s its output in float32" % off(out, plain)
        alike = gap(plain, self.usual_plain(plain)) < 1e-4
        # A rule that differs leaves the same difference in either dtype; rounding is drawn anew.
        drawn = gap(out - usual, (plain - self.usual_plain(plain)).double()) > 0.1 * gap(out, usual)
        if name == "float64" and alike and drawn and gap(out, usual) > EXACT:
            return "computes with fewer digits than float64: %s the built-in layer" % off(out, usual)
        return None

    def draws(self, plain):
        """Whether another seed gives the same batch another output."""
        norm = self.own().to(device=self.device).train()
        self.seed(1)
        return gap(norm(self.data).detach(), plain) > 0

    def remark(self):
        """What goes for every comparison of its outputs; "" where they are no matter of chance."""
        with self.torch.random.fork_rng():
            norm = self.own().to(device=self.device).train()
            chance = self.draws(norm(self.data).detach())
        return "draws random numbers in training: the same batch gives another output each time" if chance else ""

    def usual_plain(self, plain):
        return plain if self.builtin is None else self.builtin().to(device=self.device).train()(self.data).detach()

    def play(self, make, dtype):
        norm = make().to(device=self.device, dtype=dtype).train()
        return norm, norm(self.data.to(dtype)).detach()

    def kept(self, norm, dtype):
        """Buffers and tensors that did not come along, as words; imaginary parts that were lost."""
        fresh = self.own()
        found = []
        for key, tensor in self.custom.kept_tensors(self.torch, norm).items():
            was = self.custom.kept_tensors(self.torch, fresh).get(key)
            if was is not None and is_complex(was) and not is_complex(tensor):
                found.append("no imaginary part of %s" % key)
            elif was is not None and was.is_floating_point() and tensor.is_floating_point() and tensor.dtype != dtype:
                found.append("%s in %s" % (key, word(tensor.dtype)))
        return ", ".join(found)

    def refusal(self, action):
        try:
            action()
        except Exception as error:
            return short(self.custom.said(error))
        return None

    def on_cuda(self):
        if not self.torch.cuda.is_available():
            built = (
                "this build of torch has no CUDA" if self.torch.version.cuda is None else "torch sees no CUDA device"
            )
            return "unavailable: %s" % built
        norm = self.own().cuda().train()
        out = norm(self.data.cuda())
        stays = [key for key, held in self.custom.kept_tensors(self.torch, norm).items() if not held.is_cuda]
        usual = self.own().train()(self.data.cpu()).detach()
        if stays:
            return "leaves %s on the CPU" % ", ".join(stays)
        return "its output is %s that on the CPU" % off(out, usual) if gap(out.cpu(), usual) > 1e-3 else None

    # -- copies -----------------------------------------------------------------------------------------------

    def copied(self):
        norm = self.trained(self.own)
        twin = copy.deepcopy(norm)
        before = self.snapshot(norm)
        twin.train()(self.data)
        return "the copy shares its buffers: training it moves the original" if self.moved(norm, before) else None

    def reloaded(self):
        norm, fresh = self.trained(self.own), self.own().to(device=self.device)
        fresh.load_state_dict(norm.state_dict())
        held, loaded = self.eval_output(norm), self.eval_output(fresh)
        if gap(held, loaded) > 0:
            lost = sorted(set(self.custom.kept_tensors(self.torch, norm)) - set(norm.state_dict()))
            which = " (%s not in state_dict)" % ", ".join(lost) if lost else ""
            return "loses what it learned: after loading, its eval output is %s what it was%s" % (
                off(loaded, held),
                which,
            )
        return None

    def takes_builtin_state(self):
        own, usual = self.own(), self.builtin()
        names, known = set(own.state_dict()), set(usual.state_dict())
        if names != known:
            parts = [("lacks", known - names), ("adds", names - known)]
            return "; ".join("%s %s" % (verb, ", ".join(sorted(keys))) for verb, keys in parts if keys)
        held = own.state_dict()
        other = sorted(key for key, tensor in usual.state_dict().items() if tensor.shape != held[key].shape)
        if other:
            return "holds %s in another shape" % ", ".join(other)
        own.load_state_dict(usual.state_dict())
        return None

    def snapshot(self, norm):
        return {key: held.detach().clone() for key, held in self.custom.kept_tensors(self.torch, norm).items()}

    def moved(self, norm, before):
        held = self.custom.kept_tensors(self.torch, norm)
        return [key for key, tensor in held.items() if key in before and not same(tensor, before[key])]

    # -- modes ------------------------------------------------------------------------------------------------

    def eval_output(self, norm, number=0):
        norm.eval()
        self.seed(number)  # of a layer that draws numbers in eval, the same ones
        with self.torch.no_grad():
            return norm(self.data).detach().clone()

    def evaluated(self):
        norm = self.trained(self.own)
        norm.eval()
        if norm.training:
            return "is still in training mode after eval()"
        before, out = self.snapshot(norm), self.eval_output(norm)
        moved = self.moved(norm, before)
        if moved:
            return "an eval forward moves %s" % ", ".join(moved)
        if gap(out, self.eval_output(norm, number=1)) > 0:
            return "it draws random numbers in eval: the same batch gives another output each time"
        with self.torch.no_grad():
            alone = norm(self.data[:1]).detach()
        if gap(alone, out[:1]) > 1e-4:
            return "a sample's eval output depends on its batch: %s what it is alone" % off(out[:1], alone)
        return None

    def without_grad(self):
        """A training forward under no_grad moves the statistics of the built-in layer like any other."""
        norm, other = self.trained(self.own, 1), self.trained(self.own, 1)
        self.seed(2)
        norm(self.data)
        self.seed(2)
        with self.torch.no_grad():
            other(self.data)
        usual, quiet = self.eval_output(norm), self.eval_output(other)
        return "a training forward under no_grad moves its statistics otherwise" if gap(usual, quiet) > 0 else None


def same(a, b):
    return a.shape == b.shape and bool(((a == b) | (is_nan(a) & is_nan(b))).all())


def is_nan(tensor):
    return tensor != tensor  # noqa: PLR0124 - torch.isnan knows no complex numbers before 1.5


def gap(a, b):
    """Largest |a − b|; NaN on both sides is no difference, on one side an infinite one."""
    a, b = a.double(), b.double()
    apart = (a - b).abs()
    apart[is_nan(a) & is_nan(b)] = 0.0
    return float("inf") if bool(is_nan(apart).any()) else float(apart.max())


def off(a, b):
    size = gap(a, b)
    return "NaN against" if size == float("inf") else "%.2g off" % size


def values(tensor):
    """ "1", or "0.1 to 0.9": what one number per channel holds."""
    low, high = float(tensor.min()), float(tensor.max())
    return "%.4g to %.4g" % (low, high) if low < high else "%.4g" % low


def is_complex(tensor):
    return bool(getattr(tensor, "is_complex", bool)())


def word(dtype):
    return str(dtype).replace("torch.", "")


def short(text):
    return text.split("\n")[0][:160]
