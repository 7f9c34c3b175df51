"""Hooks on every module of the user's process: which layers normalise, and what each of their forwards does.

Loaded by backends/torch.py by path, in the user's program. Python 3.7 syntax. A hook never raises: what goes wrong
is said by the recorder, and the hooks are taken away.
"""

import importlib
import os
import sys
import threading
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
EXPORTS = ("trace", "script", "export")  # functions that run a model for their own ends
MOST_PARENTS = 100000
WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module", "OptimizedModule": "_orig_mod"}
OWN_DICTS = ("_modules", "_parameters", "_buffers")  # of nn.Module
HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Norm:
    """One normalising layer: its module, the recorder's record of it, and what was seen of it last."""

    def __init__(self, module, layer, words, builtin):
        self.module, self.layer, self.words, self.builtin = weakref.ref(module), layer, words, builtin
        self.before = self.after = None  # states around the last forward: (mean, var, counter); None: not looked at
        self.index = self.root = -1  # of the last forward, and the id of what it was named after
        self.trainable = self.axis = self.dtype = None
        self.bad = False  # a NaN or Inf was told of
        self.routine = None  # (its span, shape and dtype of the input, where) of a forward that the next may be like
        self.views = ()  # (name, tensor, where it lies, NumPy view of it) of each statistic, while they lie there

    def statistics(self, module, held):
        """(mean, var, counter) as they are now; None for each that the layer does not have."""
        found = []
        for word in ("mean", "var"):
            tensor = kept(module, self.words[word])
            found.append(None if tensor is None else held(tensor))
        counter = kept(module, self.words["counter"])
        found.append(None if counter is None else float(counter))
        return tuple(found)

    def view(self, module):
        """Look at the buffers in place from now on, where they are plain ones on the CPU."""
        held = [(self.words[word], module._buffers.get(self.words[word])) for word in ("mean", "var", "counter")]
        self.views = ()
        if all(tensor is not None and tensor.device.type == "cpu" for _, tensor in held):
            try:
                self.views = tuple((name, each, each.data_ptr(), each.detach().numpy()) for name, each in held)
            except (TypeError, RuntimeError):  # a type that NumPy lacks
                pass

    def in_place(self, module):
        """Whether the views still show what the layer holds: the same tensors, where they were."""
        buffers = module._buffers
        for name, tensor, place, _ in self.views:
            if buffers.get(name) is not tensor or tensor.data_ptr() != place:
                return False
        return bool(self.views)

    def as_left(self, known):
        """The statistics in place; ``known`` itself where they are bit for bit what it says."""
        (_, _, _, mean), (_, _, _, var), (_, _, _, counter) = self.views
        count = float(counter)
        if known is not None and known[0] is not None and known[1] is not None and known[2] == count:
            if known[0].tobytes() == mean.tobytes() and known[1].tobytes() == var.tobytes():
                return known
        return mean.flatten(), var.flatten(), count

    def tensor(self, module, word):
        value = kept(module, self.words[word])
        return value if hasattr(value, "detach") else None


class Local(threading.local):
    """Modules that are being called in this thread, outermost first, and what holds for the outermost's beat."""

    def __init__(self):
        self.stack, self.clock, self.look, self.where, self.again = [], None, False, None, False
        self.jumps = {}  # (quantity, by, where) → the jumps of this beat
        self.call = 0
        self.refused = None  # (layer, where) of a forward with one value per channel that has begun
        self.deep = 0  # inside train(), load_state_dict(), …: their calls of children are none of the user's
        self.inside = ""  # the name of that function


class Watching:
    """The hooks, and what they know."""

    def __init__(self, torch, recorder, parts):
        self.torch, self.recorder, self.parts = torch, recorder, parts
        self.moments, self.behaviour = parts("moments"), parts("behaviour")
        self.local = Local()
        self.born_again()
        recorder.on_birth.append(self.born_again)
        recorder.on_end.append(self.tell_refusal)
        self.made = {}  # id of a normalising layer → the line that made it
        self.own = set()  # folders whose frames are not the user's
        for folder in (os.path.dirname(torch.__file__), HERE):
            self.own.add(folder + os.sep)
        self.standard = os.path.dirname(os.__file__) + os.sep
        self.module_class, self.builtin = torch.nn.Module, builtin_classes(torch)
        buffer = getattr(torch.nn, "Buffer", None)
        self.buffer_kinds = (buffer,) if isinstance(buffer, type) else ()
        calls = torch.nn.Module.__dict__
        self.call_code = calls.get("_call_impl", calls["__call__"]).__code__
        self.task = getattr(torch._C, "_current_graph_task_id", None)
        self.calls = 0  # of outermost modules
        self.tree = (None, {})  # a root, and the paths of all modules below it
        self.compiling = is_compiling(torch)
        self.dtypes = Names()
        self.leaves = {}  # class of torch's → True where its modules do nothing that a watcher could miss
        functorch = getattr(torch._C, "_functorch", None)
        self.transform = getattr(functorch, "peek_interpreter_stack", None)  # since torch 2.0

    def born_again(self):
        """A new process, or a fork: its recorder has met no layer yet."""
        self.norms = {}  # id of a module → Norm, or None for one that is none
        self.parents = {}  # id of a module → id of the one that holds it and called it last
        self.suspects = {}  # id of a module → Suspect
        self.causes = []  # the last happenings that could have changed state: (what, where, index, ids of modules)

    # -- modules ----------------------------------------------------------------------------------------------

    def normalising(self, module):
        """The Norm of any module, None where it has none."""
        return self.find(module) if module._buffers or has_plain(module) else None

    def find(self, module):
        """The Norm of a module, None where it does not normalise by statistics that it holds."""
        known = self.norms.get(id(module), 0)
        if known is None or (known and known.module() is module):
            return known
        found = self.meet(module)
        self.norms[id(module)] = found
        return found

    def meet(self, module):
        builtin = isinstance(module, self.builtin)
        words = words_of(module) if not builtin else {
            "mean": "running_mean", "var": "running_var", "counter": "num_batches_tracked", "gamma": "weight",
            "beta": "bias",
        }  # fmt: skip
        key = id(module)
        if words is None:
            weakref.finalize(module, self.forget, key)
            suspect = self.behaviour.suspect(module)
            if suspect:
                self.suspects[key] = suspect
            return None
        if not builtin and not words["var"]:
            kind = type(module).__name__
            self.recorder.remark(
                "%s keeps a running standard deviation and no variance (%s): it is not followed."
                % (kind, words["deviation"])
            )
            weakref.finalize(module, self.forget, key)
            return None
        return self.follow(module, words, builtin)

    def follow(self, module, words, builtin=False):
        layer = self.recorder.new_layer(type(module).__name__, channels_of(module, words))
        weakref.finalize(module, self.forget, id(module))
        if layer is None:
            return None
        layer.own = not type(module).__module__.startswith("torch.")
        layer.made_at = self.made.get(id(module))
        return Norm(module, layer, words, builtin)

    def forget(self, key):
        self.norms.pop(key, None)
        self.suspects.pop(key, None)

    def name(self, norm, module, root):
        """Name a layer after its path in the outermost module that runs."""
        layer = norm.layer
        if layer.name and layer.registered:
            return
        root = unwrapped(root)
        if layer.name and (root is module or norm.root == id(root)):
            return
        norm.root = id(root)
        paths = self.paths(root, module) if root is not module else []
        kind = type(module).__name__
        if paths:
            layer.registered = True
            if "." not in layer.name:
                layer.name, layer.names = self.free(paths[0], root, layer), tuple(paths)
        elif not layer.name:
            inner = next((each for each in self.local.stack[1:] if self.paths(each, module)), None)
            if inner is not None:  # a model that was handed to the outermost module, or lies aside in it
                paths = self.paths(inner, module)
                layer.name, layer.names = self.free(paths[0], inner, layer), tuple(paths)
            else:
                number = sum(other.name.startswith(kind + "#") for other in self.recorder.layers) + 1
                layer.name = self.free("%s#%d" % (kind, number), root, layer)
            layer.registered = self.kept_aside(root, module)

    def kept_aside(self, root, module):
        """False where the layer, or a module that runs it, lies in a list or dict of one that is being called, and the
        outermost does not reach it; None where it was handed in from outside, or made for this forward."""
        callers = [unwrapped(root), *self.local.stack]
        inner = [*self.local.stack[1:], module]
        aside = any(holds(caller, each) for caller in callers for each in inner if caller is not each)
        return False if aside else None

    def paths(self, root, module):
        """All paths of a module below a root; the tree is walked once for all layers that are met in a beat."""
        if self.tree[0] is None or self.tree[0]() is not root or id(module) not in self.tree[1]:
            self.tree = (weakref.ref(root), tree_of(root))
        return self.tree[1].get(id(module), [])

    def seen_in(self, root, norms):
        """A module that holds others says where in it they lie: state_dict() and train() see more than a forward."""
        root = unwrapped(root)
        for norm in norms:
            module = norm.module()
            if module is None or module is root:
                continue
            paths = self.paths(root, module)
            layer = norm.layer
            if paths and (not layer.name or "#" in layer.name or len(paths[0]) > len(layer.names[0])):
                layer.name, layer.names = self.free(paths[0], root, layer), tuple(paths)

    def free(self, name, root, layer):
        """Two models of one program may have layers of the same path."""
        taken = {other.name for other in self.recorder.layers if other is not layer}
        if name in taken:
            name = "%s.%s" % (type(root).__name__, name)
        plain, number = name, 2
        while name in taken:
            name, number = "%s (%d)" % (plain, number), number + 1
        return name

    # -- hooks ------------------------------------------------------------------------------------------------

    def unseen(self, x=None):
        """Whether this forward is a tracer's or a transform's, and nothing of it may be touched."""
        torch = self.torch
        if self.local.inside in EXPORTS or torch._C._get_tracing_state() is not None:
            return True
        if self.transform is not None and self.transform() is not None:
            return True
        if x is None:
            return False
        if not self.plain(x) or x.device.type == "meta":
            return True
        return x.is_cuda and capturing(torch)

    def plain(self, value):
        """A tensor as it is made by torch.tensor: no FakeTensor, no DTensor, no lazy parameter."""
        kind = type(value)
        return kind is self.torch.Tensor or kind is self.torch.nn.Parameter

    def leaf(self, module):
        """Whether a module is one of torch's own that holds neither modules nor buffers: nothing normalises in it."""
        kind = module.__class__
        plain = self.leaves.get(kind)
        if plain is None:
            plain = self.leaves[kind] = kind.__module__.startswith("torch.nn.modules.")
        return plain and not module._modules and not module._buffers

    def enter(self, module, args):
        local = self.local
        stack = local.stack
        if stack and stack[0] is module:  # its last call ended in an error
            del stack[:]
        if stack and self.parents.get(id(module)) != id(stack[-1]):
            self.called_in(module, stack)
        stack.append(module)
        if len(stack) == 1:
            self.begin(module, sys._getframe(1))
        if not module._buffers and not has_plain(module):
            return
        norm = self.find(module)
        if norm is None:
            suspect = self.suspects.get(id(module))
            if suspect and not self.unseen() and not self.local.again:
                suspect.look(module, self.moments.held)
            return
        norm.before = None
        if self.unseen():
            return
        if norm.in_place(module):
            self.doubtful(norm, module, args)
            norm.before = norm.as_left(norm.after)
            if norm.after is not None and norm.before is not norm.after:
                self.jumped(norm, module)
            return
        if not self.readable(norm, module):
            return
        self.doubtful(norm, module, args)
        norm.before = norm.statistics(module, self.moments.held)
        if norm.after is not None:
            self.jumped(norm, module)
        self.converted(norm, module)
        norm.view(module)

    def called_in(self, module, stack):
        """A module that the last one on the stack does not hold: the calls on the stack may have ended in an error. The
        interpreter knows how many module calls there really are above this frame."""
        if any(child is module for child in stack[-1]._modules.values()):
            if len(self.parents) > MOST_PARENTS:
                self.parents.clear()
            self.parents[id(module)] = id(stack[-1])
            return
        frame, count, first = sys._getframe(2), -1, None  # the module's own call is one of them
        while frame is not None:
            if frame.f_code is self.call_code:
                count, first = count + 1, frame
            frame = frame.f_back
        if 0 <= count < len(stack):
            del stack[: len(stack) - count]
            if stack:
                self.begin(stack[0], first)

    def readable(self, norm, module):
        """Whether the state can be looked at now. On an accelerator every look waits for it: there only forwards that
        are looked at whole are, and those around them."""
        for word in ("mean", "var"):
            value = norm.tensor(module, word)
            if value is None:
                continue
            if not (self.plain(value) or type(value) in self.buffer_kinds) or hasattr(value, "materialize"):
                return False
            device = value.device.type
            if device == "meta" or (device != "cpu" and not self.local.look):
                return False
            if device == "cuda" and capturing(self.torch):
                return False
        return True

    def begin(self, root, frame):
        """A beat: one call of an outermost module."""
        local = self.local
        self.tell_refusal()
        self.tell_jumps()
        again = self.task is not None and self.task() != -1
        self.calls += 1
        local.call = self.calls
        local.clock = self.recorder.clock((id(root), root.training, again))
        local.look = self.recorder.beat(local.clock)
        local.where = self.where(frame)
        local.again = again
        if isinstance(root, self.torch.jit.ScriptModule):
            self.recorder.remark("A scripted model ran (torch.jit): the layers inside it are not seen.")

    def leave(self, module, args, *more):
        """``more`` ends with the output; before it come keywords, where this version of torch hands them out."""
        stack = self.local.stack
        root = stack[0] if stack else module
        while stack and stack.pop() is not module:
            pass
        norm = self.norms.get(id(module))
        self.local.refused = None
        if norm is not None and args and norm.routine is not None and self.as_before(norm, module, args[0]):
            pass
        elif norm is not None and norm.module() is module:
            given = args or (tuple(more[0].values()) if len(more) > 1 else ())
            if given and hasattr(given[0], "dim"):
                self.look(norm, module, root, given[0], more[-1])
        elif id(module) in self.suspects and args and hasattr(args[0], "dim") and not self.unseen(args[0]):
            self.judge(module, root, args[0], more[-1])
        if not stack:
            self.tell_jumps()
            self.recorder.breathe()

    def judge(self, module, root, x, y):
        """Whether a module with buffers of unknown names keeps statistics of its input; from now on it is followed."""
        suspect = self.suspects[id(module)]
        words = suspect.words(self.torch, module, x, self.moments)
        if words is None and suspect.tries:
            return
        del self.suspects[id(module)]
        if words and words["var"]:
            norm = self.norms[id(module)] = self.follow(module, words)
            if norm is not None:
                norm.before = suspect.state(words)
                self.look(norm, module, root, x, y)
        elif words:
            self.recorder.remark(
                "%s keeps a running standard deviation and no variance (%s): it is not followed."
                % (type(module).__name__, words["deviation"])
            )

    def as_before(self, norm, module, x):
        """Count a forward of which only counts are kept, and that is like the last one in all that is asked about it:
        most are. False where it is not, and look() has to see it."""
        span, shape, dtype, where = norm.routine
        local, recorder, before = self.local, self.recorder, norm.before
        if local.look or before is None or norm.module() is not module or x.__class__ is not self.torch.Tensor:
            return False
        parameters = module._parameters
        gamma, beta = parameters.get("weight"), parameters.get("bias")
        trainable = (gamma is not None and gamma.requires_grad) or (beta is not None and beta.requires_grad)
        usual = (
            x.shape == shape and x.dtype is dtype and local.where == where and trainable is bool(norm.trainable)
            and span["training"] is module.training and span["in_backward"] is local.again
            and span["gradients"] is self.torch.is_grad_enabled()
        )  # fmt: skip
        if not (usual and norm.in_place(module) and not self.unseen() and recorder.goes_on(norm.layer, span)):
            return False
        after = norm.as_left(before)
        if after is before or not (finite(after[0]) and finite(after[1])):
            return False
        norm.after, norm.index = after, recorder.forwards
        recorder.again(norm.layer, span, not alike(before, after))
        recorder.left_out += 1
        return True

    def look(self, norm, module, root, x, y):
        """A forward of a normalising layer has ended."""
        y = y[0] if isinstance(y, (tuple, list)) and y else y
        if self.unseen(x) or not hasattr(y, "dim"):
            norm.before = None
            if self.local.inside not in EXPORTS:
                norm.after = None  # else what an exporter's forwards change is its jump
            self.recorder.remark(
                "Forwards while the program traced or transformed a model were not looked at (torch.jit.trace, "
                "torch.export, torch.onnx.export, torch.func)."
            )
            return
        self.name(norm, module, root)
        recorder, layer, local = self.recorder, norm.layer, self.local
        if norm.axis is None:
            self.settle(norm, module, x)
        if norm.in_place(module):
            norm.after = norm.as_left(norm.before)
        else:
            norm.after = norm.statistics(module, self.moments.held) if self.readable(norm, module) else None
            layer.tracks = norm.tensor(module, "mean") is not None
        known = norm.before is not None and norm.after is not None
        moved = known and norm.after is not norm.before and not alike(norm.before, norm.after)
        gradients = self.torch.is_grad_enabled()
        self.parameters(norm, module)
        born = self.born(norm, x, y, moved) if local.look or x.device.type == "cpu" else False
        index, norm.index = recorder.forwards, recorder.forwards
        n = x.numel() // max(1, x.shape[norm.axis]) if x.dim() else 1
        recorder.describe(layer)
        key = (bool(module.training), local.again, gradients, self.dtypes[x.dtype])
        recorder.place()
        span = recorder.forward(layer, key, n, moved if layer.tracks and known else None, local.where)
        routine = norm.builtin and layer.registered and layer.tracks and known and norm.views
        norm.routine = (span, x.shape, x.dtype, local.where) if routine else None
        if known and (local.look or born) and x.numel():
            recorder.moment(layer, local.clock, self.moment(norm, module, x, y, index, n, gradients))
        else:
            recorder.left_out += 1

    def moment(self, norm, module, x, y, index, n, gradients):
        held, number, local = self.moments.held, self.moments.number, self.local
        state, channels = {}, norm.layer.channels
        for word in ("gamma", "beta"):
            value = norm.tensor(module, word)
            if value is not None and self.plain(value) and value.numel() in (1, channels):
                state[word] = np.broadcast_to(held(value), (channels,))
        found = self.moments.forward(self.torch, x, y, norm.axis, state)
        found.update(state)
        for name, values in (("mean", 0), ("var", 1)):
            before, after = norm.before[values], norm.after[values]
            if before is not None and after is not None and len(after) == channels == len(before):
                found[name + "_before"], found[name + "_after"] = before, after
        nan = float("nan")
        found["counter_before"] = nan if norm.before[2] is None else norm.before[2]
        found["counter_after"] = nan if norm.after[2] is None else norm.after[2]
        found.update(
            index=index, call=local.call, step=self.recorder.steps, training=np.int8(bool(module.training)),
            in_backward=np.int8(local.again), gradients=np.int8(gradients), n=n,
            eps=number(getattr(module, "eps", None)), momentum=number(getattr(module, "momentum", None)),
        )  # fmt: skip
        return found

    def settle(self, norm, module, x):
        """What a first forward tells of a layer: its channel axis, dtypes."""
        layer = norm.layer
        layer.kind = type(module).__name__  # a lazy layer has become another
        layer.channels = layer.channels or channels_of(module, norm.words) or int(x.shape[1 if x.dim() > 1 else 0])
        fitting = [dim for dim in range(x.dim()) if x.shape[dim] == layer.channels]
        norm.axis = 1 if 1 in fitting else fitting[-1] if fitting else min(1, x.dim() - 1)
        for word, name in (("running_mean", "mean"), ("running_var", "var"), ("gamma", "gamma"), ("beta", "beta")):
            value = norm.tensor(module, name)
            if value is not None:
                layer.dtypes[word] = self.dtypes[value.dtype]
        layer.settled += 1

    def parameters_quietly(self, norm, module):
        gamma, beta = norm.tensor(module, "gamma"), norm.tensor(module, "beta")
        if gamma is None and beta is None:
            norm.trainable = norm.layer.trainable = None
        else:
            flag = (gamma is not None and gamma.requires_grad) or (beta is not None and beta.requires_grad)
            norm.trainable = norm.layer.trainable = bool(flag)

    def parameters(self, norm, module):
        """Whether gamma and beta get gradients, and whether that has changed."""
        was = norm.trainable
        self.parameters_quietly(norm, module)
        if was is not None and norm.trainable is not None and norm.trainable != was:
            self.recorder.happen("requires_grad", [norm.layer.number], None, value=norm.trainable)

    def converted(self, norm, module):
        """Whether the statistics have another dtype than at the last forward."""
        held = norm.tensor(module, "mean")
        dtype = None if held is None else held.dtype
        if norm.dtype is not None and dtype is not None and dtype != norm.dtype:
            was, became = (str(kind).replace("torch.", "") for kind in (norm.dtype, dtype))
            self.recorder.happen("convert", [norm.layer.number], None, was=was, became=became)
            norm.axis = None  # its dtypes are to be read again
        norm.dtype = dtype

    # -- refusals ---------------------------------------------------------------------------------------------

    def doubtful(self, norm, module, args):
        """A forward that torch refuses: its error names no layer. Told of only where the forward does not end."""
        x = args[0] if args else None
        if not (norm.builtin and module.training and hasattr(x, "dim") and x.dim() > 1 and self.plain(x)):
            return
        if x.shape[1] and x.numel() == x.shape[1]:
            self.name(norm, module, self.local.stack[0])
            self.local.refused = (norm.layer, self.local.where)

    def tell_refusal(self):
        refused, self.local.refused = self.local.refused, None
        if refused:
            layer, where = refused
            self.recorder.describe(layer)
            self.recorder.place()
            self.recorder.happen("refused", [layer.number], where, n=1)
            self.recorder.notable()

    # -- jumps and poison -------------------------------------------------------------------------------------

    def changes(self, what, where, module=None):
        """Something happened that could have changed the state of the layers inside a module (None: of any)."""
        inside = None if module is None else set(map(id, module.modules()))
        self.causes = [*self.causes[-7:], (what, where, self.recorder.forwards, inside)]

    def jumped(self, norm, module):
        """Statistics that differ from what the last forward left. Told at the end of the beat, all layers together."""
        for at, quantity in ((0, "running_mean"), (1, "running_var"), (2, "counter")):
            before, after = norm.after[at], norm.before[at]
            if same(before, after) or equal(before, after):
                continue
            largest = float("nan")
            if before is not None and after is not None and np.shape(before) == np.shape(after):
                with np.errstate(all="ignore"):
                    largest = float(np.max(np.abs(np.subtract(after, before, dtype=np.float64)), initial=0.0))
            what, where = self.cause_of(norm, module)
            jump = self.local.jumps.setdefault((quantity, what, where), [self.recorder.forwards, [], 0.0])
            jump[1].append(norm.layer.number)
            jump[2] = largest if not largest <= jump[2] else jump[2]

    def cause_of(self, norm, module):
        root = self.local.stack[0]
        for what, where, index, inside in reversed(self.causes):
            if index > norm.index and (inside is None or id(module) in inside):
                return what, where
        if type(root).__name__ == "DistributedDataParallel" and getattr(root, "broadcast_buffers", False):
            return "broadcast", self.local.where
        return "", None

    def tell_jumps(self):
        jumps, self.local.jumps = self.local.jumps, {}
        for (quantity, what, where), (index, layers, largest) in jumps.items():
            row = self.recorder.happen("jump", layers, where, index=index, quantity=quantity, largest=largest, by=what)
            if row:  # not one of many
                self.recorder.notable(self.local.clock)

    def born(self, norm, x, y, moved):
        """The first NaN or Inf of a layer: where it is seen, and whether the input brought it. True if it is now."""
        if norm.bad:
            return False
        torch, place = self.torch, ""
        if moved and finite(norm.after[0]) and finite(norm.after[1]):
            return False
        with torch.no_grad():
            if moved:
                place = "state"
            elif y.is_floating_point() and not bool(torch.isfinite(y.detach().sum(dtype=torch.float32))):
                # a sum may overflow
                place = "" if bool(torch.isfinite(y.detach()).all()) else "output"
            if not place:
                return False
            norm.bad = True
            clean = bool(torch.isfinite(x.detach()).all())
        if clean and norm.before is not None and not all(finite(value) for value in norm.before[:2]):
            place = "state"
        self.recorder.happen(
            "nonfinite", [norm.layer.number], self.local.where, **{"in": place if clean else "input", "born": clean}
        )
        self.recorder.notable()
        return True

    # -- the user's lines -------------------------------------------------------------------------------------

    def where(self, frame):
        """(file, line, function) of the innermost frame that is the user's."""
        while frame is not None:
            code = frame.f_code
            if self.users(code.co_filename):
                return (os.path.abspath(code.co_filename), frame.f_lineno, code.co_name)
            frame = frame.f_back
        return None

    def users(self, name):
        """Whether a file is neither torch's, nor ours, nor Python's."""
        if name.startswith("<") or any(map(name.startswith, self.own)):
            return False
        return not name.startswith(self.standard) or "-packages" in name

    # -- in and out -------------------------------------------------------------------------------------------

    def guarded(self, hook, of_modules=False):
        """The hook, which never raises and works for one thread at a time. ``of_modules``: its first argument is."""
        recorder, compiling = self.recorder, self.compiling

        leaf = self.leaf

        def safe(*args):
            if compiling() or recorder.stopped:  # the compiler takes the first for True, and sees an empty hook
                return
            if of_modules and leaf(args[0]):
                return
            try:
                with recorder.lock:
                    hook(*args)
            except Exception as error:
                recorder.failed(hook.__name__, error)
            return

        return safe

    def install(self):
        hooks = importlib.import_module("torch.nn.modules.module")
        leave = self.guarded(self.leave, True)
        if not hasattr(hooks, "register_module_forward_hook"):  # before torch 1.5
            self.wrap_calls(leave)
            self.parts("happenings").install(self)
            return
        try:
            last = hooks.register_module_forward_hook(leave, with_kwargs=True)
        except TypeError:  # before torch 2.1
            last = hooks.register_module_forward_hook(leave)
        first = hooks.register_module_forward_pre_hook(self.guarded(self.enter, True))
        self.recorder.on_stop += [first.remove, last.remove]
        self.parts("happenings").install(self)

    def wrap_calls(self, leave):
        enter, module_class, original = self.guarded(self.enter, True), self.module_class, self.module_class.__call__

        def call(module, *args, **kwargs):
            enter(module, args)
            found = original(module, *args, **kwargs)
            leave(module, args, kwargs, found)
            return found

        module_class.__call__, self.call_code = call, call.__code__
        self.recorder.on_stop.append(lambda: setattr(module_class, "__call__", original))


def install(torch, recorder, parts):
    recorder.framework, recorder.version = "torch", str(torch.__version__)
    recorder.world = lambda: ranks(torch)
    Watching(torch, recorder, parts).install()


def ranks(torch):
    """(rank, world) of this process."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    try:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError:
        return 0, 1


def builtin_classes(torch):
    modules = importlib.import_module("torch.nn.modules.batchnorm")
    found = [getattr(modules, "_NormBase", None) or modules._BatchNorm, modules._BatchNorm]
    return tuple(dict.fromkeys(found))


def kept(module, name):
    """An attribute of a module, None where it has none. Module.__getattr__ takes longer than all else of a look."""
    if not name:
        return None
    value = module._buffers.get(name)
    if value is None:
        value = module._parameters.get(name)
    return getattr(module, name, None) if value is None else value


def same(a, b):
    """Equal bit by bit, so that NaN is equal to itself."""
    if a is None or b is None:
        return a is b
    if isinstance(a, float):
        return a == b or (np.isnan(a) and np.isnan(b))
    return a.tobytes() == b.tobytes()


def alike(before, after):
    return same(before[0], after[0]) and same(before[1], after[1])


class Names(dict):
    """A dtype → what it is called, without its framework."""

    def __missing__(self, dtype):
        self[dtype] = found = str(dtype).replace("torch.", "")
        return found


def equal(a, b):
    """The same numbers in another dtype."""
    return hasattr(a, "dtype") and hasattr(b, "dtype") and a.dtype != b.dtype and np.array_equal(a, b)


def finite(values):
    """Squares that add up to a finite number say so at a fifth of the price; where they do not, each is asked."""
    if values is None:
        return True
    with np.errstate(all="ignore"):  # half precision overflows soon
        return isfinite(values.dot(values)) or bool(np.isfinite(values).all())


def has_plain(module):
    return "running_mean" in module.__dict__ or "moving_mean" in module.__dict__


def words_of(module):
    """The names of a layer of the user's own for its mean, variance, counter, gamma and beta; None: it does not keep
    both statistics, of the same size, under names that say so."""
    kept = {name: value for name, value in module._buffers.items() if value is not None}
    for name, value in module.__dict__.items():  # a tensor that is no buffer
        if name in MEANS[:2] + VARS[:3] and hasattr(value, "detach"):
            kept.setdefault(name, value)

    def first(names):
        return next((name for name in names if name in kept), "")

    mean, var, deviation = first(MEANS), first(VARS), first(DEVIATIONS)
    if not mean or not (var or deviation):
        return None
    channels = kept[mean].numel()
    if channels != kept[var or deviation].numel():
        return None
    gamma, beta = roles(module, channels)
    return {
        "mean": mean, "var": var, "deviation": deviation, "counter": first(COUNTERS), "gamma": gamma, "beta": beta,
    }  # fmt: skip


def roles(module, channels):
    """The names of scale and shift: by their names, else by what they are when the layer is new: ones and zeros."""
    held = {name: value for name, value in dict(module._buffers, **module._parameters).items() if value is not None}
    gamma = next((name for name in GAMMAS if name in held), "")
    beta = next((name for name in BETAS if name in held), "")
    for name, value in module._parameters.items():
        if value is None or name in (gamma, beta) or value.numel() != channels:
            continue
        if not gamma and bool((value.detach() == 1).all()):
            gamma = name
        elif not beta and bool((value.detach() == 0).all()):
            beta = name
    return gamma, beta


def channels_of(module, words):
    held = getattr(module, words["mean"], None)
    if held is not None:
        try:
            return int(held.numel())
        except Exception:  # a lazy layer: its first forward tells
            return 0
    count = getattr(module, "num_features", 0)
    return count if isinstance(count, int) else 0


def unwrapped(root):
    while type(root).__name__ in WRAPPERS:
        inner = getattr(root, WRAPPERS[type(root).__name__], None)
        if inner is None:
            break
        root = inner
    return root


def tree_of(root):
    """id of each module below a root → its paths, in the order of the tree; a cycle is walked once."""
    found, stack, budget = {}, [("", root, ())], 200000
    while stack and budget:
        budget -= 1
        path, here, above = stack.pop()
        found.setdefault(id(here), []).append(path)
        for name, child in reversed(list(here._modules.items())):
            if child is not None and child is not here and child not in above:
                stack.append((path + "." + name if path else name, child, above + (here,)))
    return found


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


def is_compiling(torch):
    """The function by which code knows that torch.compile traces it."""
    for holder in (getattr(torch, "compiler", None), sys.modules.get("torch._dynamo.external_utils")):
        if hasattr(holder, "is_compiling"):
            return holder.is_compiling
    return lambda: False


def capturing(torch):
    """Whether a CUDA graph is being captured: nothing may wait for the device now."""
    asked = getattr(torch.cuda, "is_current_stream_capturing", None)
    return asked is not None and asked()
