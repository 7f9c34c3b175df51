"""Beats of which only counts are kept, and in which every layer is called as it was before: most are.

A hook costs what it touches, because between two convolutions the processor has forgotten it: 2 µs of calls take 50.
So in such a beat a layer's hooks only note that it ran; the layers are looked at all together, before the outermost
module's forward and behind it. Loaded by watching.py by path. Python 3.7 syntax.
"""

import sys
from weakref import ref

keeping = sys.modules["bncheck_torch_keeping"]  # watching.py has loaded it
Left = keeping.Left

MOST_ROUNDS = 200  # of models and modes, and lines of the user's program that call them


class Leaves(dict):
    """A class of modules → True where it is torch's: such a module without others in it, and without buffers, does
    nothing that a watcher could miss."""

    def __missing__(self, kind):
        self[kind] = found = kind.__module__.startswith("torch.nn.modules.")
        return found


class Usual:
    """How a layer was called in the last beat that was looked at layer by layer."""

    __slots__ = ("dtype", "gradients", "key", "norm", "ran", "shape", "span", "training")

    def __init__(self, norm, key, span, x):
        self.norm, self.key, self.span, self.shape, self.dtype = norm, key, span, x.shape, x.dtype
        self.training, self.gradients = span["training"], span["gradients"]
        self.ran = False  # in the present beat


class Routine:
    """The part of Watching for them. ``rounds``: (number of a clock, where) → {id of a module: Usual}; ``brief``: the
    numbers of clocks whose layers' inputs are gone when a forward ends."""

    def hooks(self):
        """(before, after) a forward of any module. They never raise, and work for one thread at a time."""
        recorder, compiling, local = self.recorder, self.compiling, self.local
        leaves, grads, tensor = Leaves(), self.torch.is_grad_enabled, self.torch.Tensor

        def enter(module, args):
            # The compiler takes the first for True, and sees an empty hook.
            if compiling() or (leaves[module.__class__] and not module._modules and not module._buffers):
                return
            if recorder.stopped:
                return
            try:
                usual = local.round.get(id(module))
                if usual is not None and args and not usual.ran:
                    x = args[0]
                    if (
                        x.__class__ is tensor
                        and x.shape == usual.shape
                        and x.dtype is usual.dtype
                        and module.training is usual.training
                        and grads() is usual.gradients
                        and usual.norm.written() == usual.norm.writes  # since the beat began
                    ):
                        usual.ran = True
                        local.ran.append((usual, ref(x)))
                        return
                with recorder.lock:
                    if usual is not None:  # called in another way, or once more
                        self.interrupt()
                    elif local.ran and (self.norms.get(id(module)) or id(module) in self.scripts):  # in their order
                        self.count()
                    self.enter(module, args)
            except Exception as error:
                recorder.failed("enter", error)

        def leave(module, args, *more):
            if compiling() or (leaves[module.__class__] and not module._modules and not module._buffers):
                return
            if recorder.stopped:
                return
            try:
                usual = local.round.get(id(module))
                if usual is not None and usual.ran:
                    return
                with recorder.lock:
                    self.leave(module, args, *more)
            except Exception as error:
                recorder.failed("leave", error)

        return enter, leave

    def listen(self):
        """A beat begins: with a round where nothing has changed since its layers ran last."""
        local = self.local
        local.looked, local.round = [], {}
        if local.look or local.clock.number in self.brief or self.unseen():
            return
        found = self.rounds.get((local.clock.number, local.where))
        if found and all(map(self.unchanged, found.values())):
            local.round = found

    def unchanged(self, usual):
        """Whether a layer holds what its last forward left, in the same place, and is trained as it was."""
        norm = usual.norm
        module = norm.module()
        same = (
            module is not None
            and norm.in_place(module)
            and plainly_called(module)
            and type(norm.after) is Left
            and norm.as_left(norm.after) is norm.after
            and trainable(norm, module) is norm.trainable
            and self.recorder.goes_on(norm.layer, usual.span)
        )
        if same:
            norm.writes = norm.written()
        return same

    def interrupt(self):
        """The rest of the beat is looked at as it comes."""
        self.count()
        self.local.round = {}

    def count(self):
        """Count the forwards that the beat has only noted so far."""
        local, recorder = self.local, self.recorder
        ran, local.ran = local.ran, []
        for usual, given in ran:
            norm, usual.ran, x = usual.norm, False, given()
            module = norm.module()
            local.looked.append((usual.key, usual))
            if module is None or not norm.in_place(module):
                norm.after, moved = None, None
            else:
                norm.before = norm.after
                norm.after = norm.as_left(norm.before)
                moved = norm.after is not norm.before and norm.after.held[:2] != norm.before.held[:2]
                if x is None:  # nobody keeps it for a backward; whether a NaN came with it could not be told
                    self.brief.add(local.clock.number)
                elif not norm.after.certain():
                    self.born(norm, x, None, True)
            norm.index = recorder.forwards
            recorder.again(norm.layer, usual.span, moved)
            recorder.left_out += 1

    def usual(self, norm, module, span, x):
        """A layer was looked at: note how it was called, for the rounds to come."""
        fit = (
            norm.builtin
            and not module._modules
            and str(getattr(type(module).forward, "__module__", "")).startswith("torch.")
            and plainly_called(module)
            and norm.layer.registered
            and norm.layer.tracks
            and norm.layer.forwards > norm.jumped + 1
            and type(norm.after) is Left
            and norm.after is not norm.before
            and norm.after.telling()
            and x.__class__ is self.torch.Tensor
        )
        self.local.looked.append((id(module), Usual(norm, id(module), span, x) if fit else None))

    def agree(self):
        """A beat has ended: the layers that were called once in it make the round of those to come."""
        local = self.local
        noted = bool(local.round)
        self.interrupt()
        key = (local.clock.number, local.where)
        if noted or not local.looked or (key not in self.rounds and len(self.rounds) >= MOST_ROUNDS):
            return
        found = {}
        for place, usual in local.looked:
            found[place] = None if place in found else usual
        self.rounds[key] = {place: usual for place, usual in found.items() if usual is not None}


def plainly_called(module):
    """Whether nothing of the user's runs between a layer's begin and end, and could change it there."""
    return not (module._forward_pre_hooks or module._forward_hooks or "forward" in module.__dict__)


def trainable(norm, module):
    """As Looking.parameters_quietly() has it, of a layer of torch's."""
    parameters = module._parameters
    gamma, beta = parameters.get("weight"), parameters.get("bias")
    if gamma is None and beta is None:
        return None
    return (gamma is not None and gamma.requires_grad) or (beta is not None and beta.requires_grad)
