"""What a program does to its modules between forwards: modes, loading, saving, copies, exports, optimiser steps.

Loaded by torch_side/watching.py by path. Each is seen by a function of the framework that is wrapped; the wrapper
calls what it wraps with the same arguments, returns what that returns, and never raises of its own.
"""

import functools
import importlib
import os
import sys
import weakref

NORM_WORDS = ("running_mean", "running_var", "num_batches_tracked")


def install(watching):
    steps(watching)
    modes(watching)
    states(watching)
    exports(watching)


def steps(watching):
    optimizer = importlib.import_module("torch.optim.optimizer")
    recorder = watching.recorder

    def stepped(*args, **kwargs):
        watching.interrupt()
        del watching.local.stack[:]
        recorder.stepped()

    safe = watching.guarded(stepped)
    if hasattr(optimizer, "register_optimizer_step_post_hook"):
        handle = optimizer.register_optimizer_step_post_hook(safe)
        recorder.on_stop.append(handle.remove)
        return
    start = optimizer.Optimizer.__init__

    @functools.wraps(start)
    def init(self, *args, **kwargs):
        start(self, *args, **kwargs)
        kind = type(self)
        if "step" in kind.__dict__ and not hasattr(kind.step, "bncheck_wraps"):
            kind.step = after(kind.step, safe)

    optimizer.Optimizer.__init__ = init


def after(function, then):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        found = function(*args, **kwargs)
        then()
        return found

    wrapper.bncheck_wraps = function
    return wrapper


def outermost(watching, holder, name, before=None, then=None):
    """Wrap a function that calls itself for children: only the user's own call is told of. ``before`` returns what
    ``then`` gets; both get the arguments too."""
    original = getattr(holder, name, None)
    if original is None:
        return
    recorder, local = watching.recorder, watching.local

    @functools.wraps(original)
    def wrapper(*args, **kwargs):
        if local.deep or recorder.stopped:
            return original(*args, **kwargs)
        local.deep += 1
        local.inside = name
        try:
            seen = quietly(recorder, name, before, sys._getframe(1), args, kwargs) if before else None
            found = original(*args, **kwargs)
            if then:
                quietly(recorder, name, then, sys._getframe(1), args, kwargs, seen, found)
            return found
        finally:
            local.deep -= 1
            local.inside = ""

    setattr(holder, name, wrapper)
    recorder.on_stop.append(lambda: setattr(holder, name, original))


def quietly(recorder, name, function, *args):
    try:
        with recorder.lock:
            return function(*args)
    except Exception as error:
        recorder.failed(name, error)


def concerned(watching, module):
    """Numbers of the normalising layers inside a module, run or not; None where it has none."""
    if not hasattr(module, "modules"):
        return None
    if id(module) in watching.scripts:
        return [each.layer.number for each in watching.scripts[id(module)]] or None
    norms = [norm for norm in map(watching.normalising, module.modules()) if norm is not None]
    watching.seen_in(module, norms)
    return [norm.layer.number for norm in norms] or None


def tell(watching, what, frame, module, **detail):
    """A happening about a module; nothing where it holds no layer that is followed."""
    layers = concerned(watching, module)
    if layers is None:
        return None
    watching.interrupt()
    where = watching.where(frame)
    watching.recorder.happen(what, layers, where, module=type(module).__name__, **detail)
    return where


# -- modes ------------------------------------------------------------------------------------------------------


def modes(watching):
    module_class = watching.module_class

    def told(frame, args, kwargs, seen, found):
        mode = args[1] if len(args) > 1 else kwargs.get("mode", True)
        while frame is not None and frame.f_code.co_name in ("train", "eval") and "self" in frame.f_locals:
            frame = frame.f_back
        tell(watching, "train" if mode else "eval", frame, args[0])

    outermost(watching, module_class, "train", then=told)

    def frozen(frame, args, kwargs, seen, found):
        for module in args[0].modules():
            norm = watching.norms.get(id(module))
            if norm is not None:
                was = norm.trainable
                watching.parameters_quietly(norm, module)
                if was is not None and norm.trainable != was:
                    watching.interrupt()
                    where = watching.where(frame)
                    watching.recorder.happen("requires_grad", [norm.layer.number], where, value=norm.trainable)

    outermost(watching, module_class, "requires_grad_", then=frozen)


# -- state that comes and goes ----------------------------------------------------------------------------------


def states(watching):
    torch, module_class = watching.torch, watching.module_class

    def looked(frame, args, kwargs):
        module, given = args[0], args[1] if len(args) > 1 else kwargs.get("state_dict", {})
        return compared(watching, module, given)

    def loaded(frame, args, kwargs, seen, found):
        where = tell(watching, "load", frame, args[0], **(seen or {}))
        if concerned(watching, args[0]) is None and seen and any(seen.values()):
            # Its layers have not run yet, and what is missing names them.
            where = watching.where(frame)
            watching.recorder.happen("load", [], where, module=type(args[0]).__name__, **seen)
        watching.changes("load", where, args[0])
        watching.recorder.notable()

    outermost(watching, module_class, "load_state_dict", looked, loaded)

    def saved(frame, args, kwargs, seen, found):
        tell(watching, "save", frame, args[0])

    outermost(watching, module_class, "state_dict", then=saved)

    def stored(frame, args, kwargs, seen, found):
        if isinstance(args[0], module_class):
            tell(watching, "save", frame, args[0])

    outermost(watching, torch, "save", then=stored)

    def reset(frame, args, kwargs, seen, found):
        watching.changes("reset", watching.where(frame), args[0])

    norms = importlib.import_module("torch.nn.modules.batchnorm")
    base = getattr(norms, "_NormBase", norms._BatchNorm)
    outermost(watching, base, "reset_running_stats", then=reset)

    def made(frame, args, kwargs, seen, found):
        key = id(args[0])
        watching.made[key] = watching.where(frame)
        weakref.finalize(args[0], watching.made.pop, key, None)

    outermost(watching, base, "__init__", then=made)
    copies(watching)
    averages(watching)


def averages(watching):
    """Helpers of torch.optim.swa_utils that write into a model's state."""
    try:
        tools = importlib.import_module("torch.optim.swa_utils")
    except ImportError:  # before torch 1.6
        return

    def averaged(frame, args, kwargs, seen, found):
        tell(watching, "average", frame, args[0], buffers=bool(getattr(args[0], "use_buffers", False)))
        watching.changes("average", watching.where(frame), args[0])

    outermost(watching, tools.AveragedModel, "update_parameters", then=averaged)


def compared(watching, module, given):
    """Keys of normalising layers that a state lacks, has besides, or has in another shape."""
    own, missing, misshaped = {}, [], []
    for path, each in module.named_modules():
        inside = dict(each._parameters, **each._buffers)
        if "running_mean" not in inside and watching.norms.get(id(each)) is None:
            continue
        skipped = getattr(each, "_non_persistent_buffers_set", ())
        for name, value in inside.items():
            if value is not None and name not in skipped:
                own[path + "." + name if path else name] = value
    for key, value in own.items():
        if key not in given:
            missing.append(key)
        elif hasattr(given[key], "shape") and tuple(given[key].shape) != tuple(value.shape):
            misshaped.append(key)
    keys = set(module.state_dict().keys()) if hasattr(given, "keys") else set()
    unexpected = [key for key in given if key not in keys and str(key).rpartition(".")[2] in NORM_WORDS]
    return {"missing": missing[:1000], "unexpected": unexpected[:1000], "misshaped": misshaped[:1000]}


def copies(watching):
    """``copy.deepcopy`` and unpickling end in __setstate__ of each module, the outermost last."""
    module_class, original = watching.module_class, watching.module_class.__setstate__
    recorder = watching.recorder

    @functools.wraps(original)
    def setstate(self, state):
        original(self, state)
        if not recorder.stopped:
            quietly(recorder, "copy", copied, sys._getframe(1), self)

    def copied(frame, module):
        if not any(isinstance(each, watching.builtin) for each in module.modules()):
            return
        code = frame.f_code
        if code.co_name != "_reconstruct" or os.path.basename(code.co_filename) != "copy.py":
            return
        where = watching.where(frame_behind(frame, "copy.py"))
        log, row = recorder.log, None
        if (
            log
            and log[-1].get("what") == "copy"
            and log[-1]["where"] == where
            and log[-1]["index"] == recorder.forwards
        ):
            row = log[-1]
            row["detail"]["module"] = type(module).__name__
        else:
            recorder.happen("copy", [], where, module=type(module).__name__)

    module_class.__setstate__ = setstate
    recorder.on_stop.append(lambda: setattr(module_class, "__setstate__", original))


def frame_behind(frame, name):
    while frame is not None and os.path.basename(frame.f_code.co_filename) == name:
        frame = frame.f_back
    return frame


# -- models that leave ------------------------------------------------------------------------------------------


def exports(watching):
    def told(by):
        def exported(frame, args, kwargs, seen, found):
            module = args[0] if args else None
            if isinstance(module, watching.module_class):
                where = tell(watching, "export", frame, module, by=by)
                watching.changes("export", where, module)

        return exported

    torch = watching.torch
    compiled(watching)
    for path in ("jit.trace", "jit.script", "onnx.export", "export.export"):
        holder = torch
        for word in path.split(".")[:-1]:
            holder = getattr(holder, word, None)
        if holder is not None:
            outermost(watching, holder, path.rpartition(".")[2], then=told("torch." + path))

    def converted(frame, args, kwargs, seen, found):
        if isinstance(args[-1], watching.module_class) or found is not None:
            watching.recorder.happen("convert", [], watching.where(frame), was="BatchNorm", became="SyncBatchNorm")

    sync = getattr(torch.nn, "SyncBatchNorm", None)
    if sync is not None:
        conversion(watching, sync, converted)


def compiled(watching):
    """torch.compile of a model with normalising layers: the model stays what it becomes, but runs operation by
    operation. Inside a compiled graph nothing can be seen, and hooks would break it apart (fullgraph=True would fail).
    """
    torch = watching.torch
    if not hasattr(torch, "compile"):
        return
    hooks = importlib.import_module("torch.nn.modules.module")

    def followed(module):
        inside = module.modules() if isinstance(module, watching.module_class) else ()
        return any(watching.normalising(each) is not None for each in inside)

    def told(frame, args, kwargs, seen, found):
        module = args[0] if args else kwargs.get("model")
        if not followed(module):
            return
        tell(watching, "export", frame, module, by="torch.compile")
        if hasattr(found, "_orig_mod") and "forward" in found.__dict__:
            found.__dict__["forward"] = found._orig_mod.__call__
            watching.recorder.remark(
                "torch.compile: the model ran uncompiled while it was watched, because a compiled one hides its layers."
            )

    outermost(watching, torch, "compile", then=told)
    in_place = getattr(watching.module_class, "compile", None)
    if in_place is not None:

        @functools.wraps(in_place)
        def compile_in_place(self, *args, **kwargs):
            in_place(self, *args, **kwargs)
            if not watching.recorder.stopped:
                quietly(watching.recorder, "compile", undone, sys._getframe(1), self)

        def undone(frame, module):
            if followed(module):
                tell(watching, "export", frame, module, by="torch.compile")
                module._compiled_call_impl = None

        watching.module_class.compile = compile_in_place
        watching.recorder.on_stop.append(lambda: setattr(watching.module_class, "compile", in_place))
    if hasattr(hooks, "_has_any_global_hook"):
        any_hook = hooks._has_any_global_hook

        def any_other_hook():
            """Its caller warns of global hooks, and ours are none of the user's."""
            return any_hook() and bool(
                len(hooks._global_forward_hooks) > 1
                or len(hooks._global_forward_pre_hooks) > 1
                or hooks._global_backward_hooks
                or hooks._global_backward_pre_hooks
            )

        hooks._has_any_global_hook = any_other_hook
        watching.recorder.on_stop.append(lambda: setattr(hooks, "_has_any_global_hook", any_hook))


def conversion(watching, sync, told):
    """A classmethod: its wrapper is one too."""
    original = sync.__dict__.get("convert_sync_batchnorm")
    if original is None:
        return
    recorder, local = watching.recorder, watching.local

    @functools.wraps(original.__func__)
    def convert(cls, *args, **kwargs):
        if local.deep or recorder.stopped:
            return original.__func__(cls, *args, **kwargs)
        local.deep += 1
        try:
            found = original.__func__(cls, *args, **kwargs)
            quietly(recorder, "convert_sync_batchnorm", told, sys._getframe(1), args, kwargs, None, found)
            return found
        finally:
            local.deep -= 1

    sync.convert_sync_batchnorm = classmethod(convert)
    recorder.on_stop.append(lambda: setattr(sync, "convert_sync_batchnorm", original))
