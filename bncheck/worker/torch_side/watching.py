"""Hooks on every module of the user's process: which layers normalise, and what each of their forwards does.

Loaded by backends/torch.py by path, in the user's program. Python 3.7 syntax. A hook never raises: what goes wrong
is said by the recorder, and the hooks are taken away.
"""

import importlib
import os
import sys
import threading
import weakref

import numpy as np

# Names that own layers give to what they remember; the first that exists is read.
MEANS = ("running_mean", "moving_mean", "stored_mean", "mean_ema", "ema_mean", "pop_mean", "population_mean",
         "global_mean", "avg_mean", "mean_avg", "running_mu", "mean")  # fmt: skip
VARS = ("running_var", "moving_var", "moving_variance", "running_variance", "stored_var", "stored_variance", "var_ema",
        "ema_var", "pop_var", "population_var", "global_var", "avg_var", "var_avg", "running_sigma2", "variance",
        "var")  # fmt: skip
DEVIATIONS = ("running_std", "moving_std", "stored_std", "running_sigma")
COUNTERS = ("num_batches_tracked", "counter", "num_batches")
GAMMAS, BETAS = ("weight", "gamma", "scale"), ("bias", "beta", "shift")
WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module", "OptimizedModule": "_orig_mod"}
HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Norm:
    """One normalising layer: its module, the recorder's record of it, and what was seen of it last."""

    def __init__(self, module, layer, words, builtin):
        self.module, self.layer, self.words, self.builtin = weakref.ref(module), layer, words, builtin
        self.before = self.after = None  # states around the last forward: (mean, var, counter)
        self.trainable = self.axis = None
        self.bad = False  # a NaN or Inf was told of

    def statistics(self, module, held):
        """(mean, var, counter) as they are now; None for each that the layer does not have."""
        found = []
        for word in ("mean", "var"):
            tensor = getattr(module, self.words[word], None) if self.words[word] else None
            found.append(None if tensor is None else held(tensor))
        counter = getattr(module, self.words["counter"], None) if self.words["counter"] else None
        found.append(None if counter is None else float(counter))
        return tuple(found)

    def parameter(self, module, word):
        name = self.words[word]
        value = getattr(module, name, None) if name else None
        return value if hasattr(value, "detach") else None


class Local(threading.local):
    """Modules that are being called in this thread, outermost first, and what holds for the outermost's beat."""

    def __init__(self):
        self.stack, self.clock, self.look, self.where = [], None, False, None
        self.deep = 0  # inside train(), load_state_dict(), …: their calls of children are none of the user's


class Watching:
    """The hooks, and what they know."""

    def __init__(self, torch, recorder, parts):
        self.torch, self.recorder, self.parts = torch, recorder, parts
        self.moments = parts("moments")
        self.local = Local()
        self.generation = recorder.generation
        self.norms = {}  # id of a module → Norm, or None for one that is none
        self.own = set()  # folders whose frames are not the user's
        for folder in (os.path.dirname(torch.__file__), HERE):
            self.own.add(folder + os.sep)
        self.module_class, self.builtin = torch.nn.Module, builtin_classes(torch)
        self.task = getattr(torch._C, "_current_graph_task_id", None)
        self.cause = None  # the last happening that could have changed state: (what, where)
        self.beats = 0

    # -- modules ----------------------------------------------------------------------------------------------

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
            weakref.finalize(module, self.norms.pop, key, None)
            return None
        if not builtin and not words["var"]:
            kind = type(module).__name__
            self.recorder.remark(
                "%s keeps a running standard deviation and no variance (%s): it is not followed."
                % (kind, words["deviation"])
            )
            weakref.finalize(module, self.norms.pop, key, None)
            return None
        layer = self.recorder.new_layer(type(module).__name__, channels_of(module, words))
        weakref.finalize(module, self.norms.pop, key, None)
        if layer is None:
            return None
        layer.own = not type(module).__module__.startswith("torch.")
        return Norm(module, layer, words, builtin)

    def name(self, norm, module, root):
        """Name a layer after its path in the outermost module that runs."""
        layer, root = norm.layer, unwrapped(root)
        if layer.name and (layer.registered or root is module):
            return
        paths = paths_of(root, module) if root is not module else []
        kind = type(module).__name__
        if paths:
            layer.name, layer.names, layer.registered = self.free(paths[0], root, layer), tuple(paths), True
        elif not layer.name:
            number = sum(other.layer.kind == kind for other in self.norms.values() if other)
            layer.name = self.free("%s#%d" % (kind, number), root, layer)
            layer.registered = None if root is module else False
        elif root is not module:
            layer.registered = False

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
        """Whether this forward is a tracer's, and nothing of it may be touched."""
        torch = self.torch
        if torch._C._get_tracing_state() is not None:
            return True
        stack = getattr(torch._C, "_functorch", None)
        if stack is not None and stack.peek_interpreter_stack() is not None:
            return True
        return x is not None and type(x) is not torch.Tensor and not isinstance(x, torch.nn.Parameter)

    def enter(self, module, args):
        local = self.local
        stack = local.stack
        if stack and stack[0] is module:  # its last call ended in an error
            del stack[:]
        stack.append(module)
        if len(stack) == 1:
            self.begin(module)
        if not module._buffers and not has_plain(module):
            return
        norm = self.find(module)
        if norm is None or self.unseen():
            return
        norm.before = norm.statistics(module, self.moments.held)
        if norm.after is not None:
            self.jumped(norm)

    def begin(self, root):
        """A beat: one call of an outermost module."""
        if self.recorder.generation != self.generation:  # a fork
            self.generation, self.norms, self.cause = self.recorder.generation, {}, None
        local = self.local
        again = self.task is not None and self.task() != -1
        local.clock = self.recorder.clock((id(root), root.training, again))
        local.look = self.recorder.beat(local.clock)
        local.where = self.where(sys._getframe(2))
        local.again = again

    def leave(self, module, args, output):
        local = self.local
        stack = local.stack
        root = stack[0] if stack else module
        while stack and stack.pop() is not module:
            pass
        norm = self.norms.get(id(module))
        if norm is not None and norm.module() is module and args:
            self.look(norm, module, root, args[0], output)
        if not stack:
            self.recorder.breathe()

    def look(self, norm, module, root, x, y):
        """A forward of a normalising layer has ended."""
        y = y[0] if isinstance(y, (tuple, list)) and y else y
        if self.unseen(x):
            norm.before = norm.after = None
            self.recorder.remark(
                "Forwards while the program traced or transformed a model were not looked at (torch.jit.trace, "
                "torch.export, torch.onnx.export, torch.func)."
            )
            return
        if norm.before is None:
            norm.before = norm.after or (None, None, None)
        self.name(norm, module, root)
        recorder, layer, local = self.recorder, norm.layer, self.local
        if norm.axis is None:
            self.settle(norm, module, x)
        norm.after = norm.statistics(module, self.moments.held)
        moved = not (same(norm.before[0], norm.after[0]) and same(norm.before[1], norm.after[1]))
        tracks = norm.after[0] is not None
        gradients = self.torch.is_grad_enabled()
        training = module.training
        self.parameters(norm, module)
        born = self.born(norm, x, y, moved)
        index = recorder.forwards
        n = x.numel() // max(1, x.shape[norm.axis]) if x.dim() else 1
        if layer.tracks != tracks:
            layer.tracks = tracks
        recorder.describe(layer)
        key = (bool(training), local.again, gradients, str(x.dtype).replace("torch.", ""))
        recorder.place()
        recorder.forward(layer, key, n, moved if tracks else None, local.where)
        if local.look or born:
            recorder.moment(layer, local.clock, self.moment(norm, module, x, y, index, n, gradients, moved))
        else:
            recorder.left_out += 1

    def moment(self, norm, module, x, y, index, n, gradients, moved):
        held, number, local = self.moments.held, self.moments.number, self.local
        state = {}
        for word in ("gamma", "beta"):
            value = norm.parameter(module, word)
            if value is not None and value.numel() in (1, norm.layer.channels):
                state[word] = np.broadcast_to(held(value), (norm.layer.channels,))
        found = self.moments.forward(self.torch, x, y, norm.axis, state)
        found.update(state)
        for name, values in (("mean", 0), ("var", 1)):
            before, after = norm.before[values], norm.after[values]
            if before is not None and after is not None and len(after) == norm.layer.channels == len(before):
                found[name + "_before"], found[name + "_after"] = before, after
        nan = float("nan")
        found["counter_before"] = nan if norm.before[2] is None else norm.before[2]
        found["counter_after"] = nan if norm.after[2] is None else norm.after[2]
        found.update(
            index=index, step=self.recorder.steps, training=np.int8(bool(module.training)),
            in_backward=np.int8(local.again), gradients=np.int8(gradients), n=n,
            eps=number(getattr(module, "eps", None)), momentum=number(getattr(module, "momentum", None)),
        )  # fmt: skip
        return found

    def settle(self, norm, module, x):
        """What a first forward tells of a layer: its channel axis, dtypes."""
        channels = norm.layer.channels
        if not channels:
            norm.layer.channels = channels = int(x.shape[1] if x.dim() > 1 else x.shape[0])
        fitting = [dim for dim in range(x.dim()) if x.shape[dim] == channels]
        norm.axis = 1 if 1 in fitting or not fitting else fitting[-1]
        for word, name in (("running_mean", "mean"), ("running_var", "var"), ("gamma", "gamma"), ("beta", "beta")):
            value = getattr(module, norm.words[name], None) if norm.words[name] else None
            if hasattr(value, "dtype"):
                norm.layer.dtypes[word] = str(value.dtype).replace("torch.", "")

    def parameters_quietly(self, norm, module):
        values = [norm.parameter(module, word) for word in ("gamma", "beta")]
        flags = [bool(value.requires_grad) for value in values if value is not None]
        norm.trainable = norm.layer.trainable = any(flags) if flags else None

    def parameters(self, norm, module):
        """Whether gamma and beta get gradients, and whether that has changed."""
        was = norm.trainable
        self.parameters_quietly(norm, module)
        if was is not None and norm.trainable is not None and norm.trainable != was:
            self.recorder.happen("requires_grad", [norm.layer.number], None, value=norm.trainable)

    def jumped(self, norm):
        """Statistics that differ from what the last forward left."""
        for at, quantity in ((0, "running_mean"), (1, "running_var"), (2, "counter")):
            before, after = norm.after[at], norm.before[at]
            if same(before, after):
                continue
            largest = float("nan")
            if before is not None and after is not None:
                with np.errstate(all="ignore"):
                    largest = float(np.max(np.abs(np.subtract(after, before, dtype=np.float64)), initial=0.0))
            what, where = self.cause or ("", None)
            self.recorder.happen(
                "jump", [norm.layer.number], where, quantity=quantity, largest=largest, by=what
            )
            self.recorder.notable(self.local.clock)

    def born(self, norm, x, y, moved):
        """The first NaN or Inf of a layer: where it is seen, and whether the input brought it. True if it is now."""
        if norm.bad:
            return False
        torch = self.torch
        if moved:
            place = "state" if not all(finite(value) for value in norm.after[:2]) else ""
        elif y.dim() and y.is_floating_point():
            with torch.no_grad():
                place = "" if bool(torch.isfinite(y.detach().sum(dtype=torch.float32))) else "output"
                if place and bool(torch.isfinite(y.detach()).all()):
                    place = ""  # a sum that overflowed
        else:
            place = ""
        if not place:
            return False
        norm.bad = True
        with torch.no_grad():
            clean = bool(torch.isfinite(x.detach()).all())
        self.recorder.happen(
            "nonfinite", [norm.layer.number], None, **{"in": place if clean else "input", "born": clean}
        )
        self.recorder.notable()
        return True

    # -- the user's lines -------------------------------------------------------------------------------------

    def where(self, frame):
        """(file, line, function) of the innermost frame that is the user's."""
        while frame is not None:
            code = frame.f_code
            name = code.co_filename
            if not any(map(name.startswith, self.own)) and not name.startswith("<"):
                return (os.path.abspath(name), frame.f_lineno, code.co_name)
            frame = frame.f_back
        return None

    # -- in and out -------------------------------------------------------------------------------------------

    def guarded(self, hook):
        """The hook, which never raises and works for one thread at a time."""
        recorder = self.recorder

        def safe(*args):
            if recorder.stopped:
                return None
            try:
                with recorder.lock:
                    hook(*args)
            except Exception as error:
                recorder.failed(hook.__name__, error)
            return None

        return safe

    def install(self):
        hooks = importlib.import_module("torch.nn.modules.module")
        handles = [
            hooks.register_module_forward_pre_hook(self.guarded(self.enter)),
            hooks.register_module_forward_hook(self.guarded(self.leave)),
        ]
        self.recorder.on_stop += [handle.remove for handle in handles]
        self.parts("happenings").install(self)


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


def same(a, b):
    """Equal bit by bit, so that NaN is equal to itself."""
    if a is None or b is None:
        return a is b
    if isinstance(a, float):
        return a == b or (a != a and b != b)
    return a.tobytes() == b.tobytes()


def finite(values):
    return values is None or bool(np.isfinite(values).all())


def has_plain(module):
    return "running_mean" in module.__dict__ or "moving_mean" in module.__dict__


def words_of(module):
    """The names of a layer of the user's own for its mean, variance, counter, gamma and beta; None: it does not keep
    both statistics of the same size."""
    kept = {name: value for name, value in module._buffers.items() if value is not None}
    for name, value in module.__dict__.items():
        if name in MEANS[:2] + VARS[:3] and hasattr(value, "detach"):
            kept.setdefault(name, value)

    def first(names):
        return next((name for name in names if name in kept), "")

    mean, var, deviation = first(MEANS), first(VARS), first(DEVIATIONS)
    if not mean or not (var or deviation):
        return None
    if kept[mean].numel() != kept[var or deviation].numel():
        return None
    return {
        "mean": mean, "var": var, "deviation": deviation, "counter": first(COUNTERS),
        "gamma": parameter_of(module, GAMMAS), "beta": parameter_of(module, BETAS),
    }  # fmt: skip


def parameter_of(module, names):
    return next((name for name in names if module._parameters.get(name) is not None), "")


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


def paths_of(root, module):
    """All paths of a module below a root, in the order of its tree; cycles are walked once."""
    found, stack, budget = [], [("", root, ())], 200000
    while stack and budget:
        budget -= 1
        path, here, above = stack.pop()
        for name, child in reversed(list(here._modules.items())):
            if child is None or child in above:
                continue
            stack.append((path + "." + name if path else name, child, above + (here,)))
        if here is module:
            found.append(path)
    return found
