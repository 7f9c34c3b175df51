"""Hooks on every module of the user's process: which layers normalise, and what each of their forwards does.

Loaded by backends/torch.py by path, in the user's program. Python 3.7 syntax. A hook never raises: what goes wrong
is said by the recorder, and the hooks are taken away.
"""

import importlib
import importlib.util
import os
import sys
import threading
import weakref

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SPEC = importlib.util.spec_from_file_location("bncheck_beside", os.path.join(WORKER, "beside.py"))
BESIDE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BESIDE)
part = BESIDE.part_of("torch")
keeping = part("keeping")  # the others look for it
looking, naming, jumps, scripted = part("looking"), part("naming"), part("jumps"), part("scripted")
routine = part("routine")
Norm, has_plain, channels_of = keeping.Norm, keeping.has_plain, keeping.channels_of

MOST_PARENTS = 100000


class Local(threading.local):
    """Modules that are being called in this thread, outermost first, and what holds for the outermost's beat."""

    def __init__(self):
        self.stack, self.clock, self.look, self.where, self.again = [], None, False, None, False
        self.round, self.ran, self.looked = {}, [], []  # of a beat, as Routine has them
        self.jumps = {}  # (quantity, by, where) → the jumps of this beat
        self.call = 0
        self.refused = None  # (layer, where) of a forward with one value per channel that has begun
        self.deep = 0  # inside train(), load_state_dict(), …: their calls of children are none of the user's
        self.inside = ""  # the name of that function


class Watching(looking.Looking, routine.Routine, naming.Naming, jumps.Jumps, scripted.Scripted):
    """The hooks, and what they know."""

    def __init__(self, torch, recorder, parts):
        self.torch, self.recorder, self.parts = torch, recorder, parts
        self.moments, self.behaviour = parts("moments"), parts("behaviour")
        self.local, self.rounds, self.brief = Local(), {}, set()
        self.born_again()
        recorder.on_birth.append(self.born_again)
        recorder.on_end += [self.tell_refusal, self.interrupt]
        self.made = {}  # id of a normalising layer → the line that made it
        self.own = set()  # folders whose frames are not the user's
        for folder in (os.path.dirname(torch.__file__), WORKER):
            self.own.add(folder + os.sep)
        self.standard = os.path.dirname(os.__file__) + os.sep
        self.module_class, self.builtin = torch.nn.Module, keeping.builtin_classes(torch)
        buffer = getattr(torch.nn, "Buffer", None)
        self.buffer_kinds = (buffer,) if isinstance(buffer, type) else ()
        calls = torch.nn.Module.__dict__
        self.call_code = calls.get("_call_impl", calls["__call__"]).__code__
        self.task = getattr(torch._C, "_current_graph_task_id", None)
        self.calls = 0  # of outermost modules
        self.tree = (None, {})  # a root, and the paths of all modules below it
        self.compiling = is_compiling(torch)
        self.dtypes = Names()
        self.scripted = scripted.kinds(torch)
        functorch = getattr(torch._C, "_functorch", None)
        self.transform = getattr(functorch, "peek_interpreter_stack", None)  # since torch 2.0

    def born_again(self):
        """A new process, or a fork: its recorder has met no layer yet."""
        self.norms = {}  # id of a module → Norm, or None for one that is none
        self.parents = {}  # id of a module → its name in the one that holds it and called it last
        self.suspects = {}  # id of a module → Suspect
        self.scripts = {}  # id of a scripted model → its layers
        self.rounds.clear()
        self.brief.clear()
        self.local.round, self.local.ran, self.local.looked = {}, [], []
        self.causes = []  # the last happenings that could have changed state: (what, where, index, ids of modules)

    # -- modules ----------------------------------------------------------------------------------------------

    def normalising(self, module):
        """The Norm of any module, None where it has none."""
        return self.find(module) if module._buffers or has_plain(module) else None

    def find(self, module):
        """The Norm of a module, None where it does not normalise by statistics that it holds."""
        if not isinstance(module._buffers, dict):
            return None  # a scripted module shows what it holds in another way
        known = self.norms.get(id(module), 0)
        if known is None or (known and known.module() is module):
            return known
        found = self.meet(module)
        self.norms[id(module)] = found
        return found

    def meet(self, module):
        builtin = isinstance(module, self.builtin)
        words = (
            keeping.words_of(module)
            if not builtin
            else {
                "mean": "running_mean",
                "var": "running_var",
                "counter": "num_batches_tracked",
                "gamma": "weight",
                "beta": "bias",
            }
        )
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

    # -- hooks ------------------------------------------------------------------------------------------------

    def unseen(self, x=None):
        """Whether this forward is a tracer's or a transform's, and nothing of it may be touched."""
        torch = self.torch
        if self.local.inside in looking.EXPORTS or torch._C._get_tracing_state() is not None:
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

    def enter(self, module, args):
        local = self.local
        stack = local.stack
        if stack and stack[0] is module:  # its last call ended in an error
            del stack[:]
        if stack and not known_in(stack[-1], self.parents.get(id(module)), module):
            self.called_in(module, stack)
        stack.append(module)
        if len(stack) == 1:
            self.begin(module, sys._getframe(1))
        if isinstance(module, self.scripted) and not self.unseen():
            self.enter_scripted(module)
            return
        if not module._buffers and not has_plain(module):
            return
        if id(module) not in self.norms and self.unseen():  # to meet it now would be traced, too
            if isinstance(module, self.builtin):
                self.recorder.remark(looking.UNLOOKED)
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
        name = next((name for name, child in stack[-1]._modules.items() if child is module), None)
        if name is not None:
            if len(self.parents) > MOST_PARENTS:
                self.parents.clear()
            self.parents[id(module)] = name
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
        self.interrupt()  # the last beat may have ended in an error
        again = self.task is not None and self.task() != -1
        self.calls += 1
        local.call = self.calls
        local.clock = self.recorder.clock((id(root), root.training, again))
        local.look = self.recorder.beat(local.clock)
        local.where = self.where(frame)
        local.again = again
        self.listen()

    def leave(self, module, args, *more):
        """``more`` ends with the output; before it come keywords, where this version of torch hands them out."""
        stack = self.local.stack
        root = stack[0] if stack else module
        while stack and stack.pop() is not module:
            pass
        if isinstance(module, self.scripted) and id(module) in self.scripts:
            self.leave_scripted(module)
        norm = self.norms.get(id(module))
        self.local.refused = None
        if norm is not None and norm.module() is module:
            given = args or (tuple(more[0].values()) if len(more) > 1 else ())
            if given and hasattr(given[0], "dim"):
                self.look(norm, module, root, given[0], more[-1])
        elif id(module) in self.suspects and args and hasattr(args[0], "dim") and not self.unseen(args[0]):
            self.judge(module, root, args[0], more[-1])
        if not stack:
            self.agree()
            self.tell_jumps()
            self.recorder.breathe()

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

    # -- the user's lines -------------------------------------------------------------------------------------

    def where(self, frame):
        """(file, line, function) of the innermost frame that is the user's."""
        while frame is not None:
            code = frame.f_code
            if self.users(code.co_filename):
                return (self.recorder.file_of(code.co_filename), frame.f_lineno, code.co_name)
            frame = frame.f_back
        return None

    def users(self, name):
        """Whether a file is neither torch's, nor ours, nor Python's."""
        if name.startswith("<") or any(map(name.startswith, self.own)):
            return False
        return not name.startswith(self.standard) or "-packages" in name

    # -- in and out -------------------------------------------------------------------------------------------

    def guarded(self, hook):
        """The hook, which never raises and works for one thread at a time."""
        recorder, compiling = self.recorder, self.compiling

        def safe(*args):
            if compiling() or recorder.stopped:  # the compiler takes the first for True, and sees an empty hook
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
        enter, leave = self.hooks()
        if not hasattr(hooks, "register_module_forward_hook"):  # before torch 1.5
            self.wrap_calls(enter, leave)
            self.parts("happenings").install(self)
            return
        try:
            last = hooks.register_module_forward_hook(leave, with_kwargs=True)
        except TypeError:  # before torch 2.1
            last = hooks.register_module_forward_hook(leave)
        first = hooks.register_module_forward_pre_hook(enter)
        self.recorder.on_stop += [first.remove, last.remove]
        self.parts("happenings").install(self)

    def wrap_calls(self, enter, leave):
        module_class, original = self.module_class, self.module_class.__call__

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


def known_in(parent, name, module):
    """Whether a module lies under a name in another; an id may be a dead module's, and says nothing."""
    inside = parent._modules
    return name is not None and isinstance(inside, dict) and inside.get(name) is module


class Names(dict):
    """A dtype → what it is called, without its framework."""

    def __missing__(self, dtype):
        self[dtype] = found = str(dtype).replace("torch.", "")
        return found


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
