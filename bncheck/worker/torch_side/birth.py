"""Where in a forward the first NaN or Inf arises: the operation, the line of the user's code, the module.

Loaded by path, by subject/ and by backends/torch.py. Python 3.7 syntax. The forward is run once more, every operation
looked at; what reaches the first normalising layer that got NaN or Inf is followed back to the operation that made it
of finite numbers, for a mask of -inf is none's fault.
"""

import linecache
import os
import sys

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def look(torch, net, norms, run):
    """{"op", "dtype", "largest", "held", "module", "kind", "where", "code"} of the birth in ``run(net)``; {"from":
    "input"} where the batch holds it, {"from": "outside", "where", "code"} where no operation of torch's made it: the
    line of the first that takes it. {} where it is not in front of a normalising layer or at the output, or this torch
    does not show its operations. ``norms``: {name: module}. The network is run in the mode that it is in, and its state
    moves."""
    try:
        from torch.utils._python_dispatch import TorchDispatchMode
    except ImportError:  # before torch 1.13
        return {}
    follow = follower(torch, TorchDispatchMode)(net)
    hooks = []
    for name, module in net.named_modules():
        if isinstance(module._buffers, dict):
            hooks += follow.around(name, module, module in norms.values())
    try:
        with torch.no_grad(), follow:
            out = run(net)
    except Exception:
        out = None  # what plays the network says why
    finally:
        for hook in hooks:
            hook.remove()
    target = follow.reached
    if target is None:
        target = next((each for each in follow.tensors((out,)) if bad(torch, each)), None)
    return follow.origin(target, norms) if target is not None else {}


def bad(torch, tensor):
    return (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all())


def infinite(value):
    """Whether an argument of an operation is Inf as such: a mask that somebody fills in."""
    return isinstance(value, float) and value in (float("inf"), -float("inf"))


def largest(torch, tensors):
    """The largest absolute value of what went in."""
    sizes = [float(each.detach().abs().max()) for each in tensors if each.numel() and each.is_floating_point()]
    return max(sizes) if sizes else None


def follower(torch, mode):
    class Follower(mode):
        """Every operation whose result is not finite, and which of its inputs were not."""

        def __init__(self, net):
            super().__init__()
            self.net, self.stack, self.reached, self.fed = net, [], None, None
            self.made, self.alive = {}, []  # id of a result → what made it; those results, so that ids stay theirs
            self.taken = {}  # id of what no operation made → the line of the first that takes it
            self.masks, self.masked = set(), set()  # ids of what holds -Inf by intent; of NaN made of that alone

        def around(self, name, module, norm):
            def enter(module, given, keywords):
                if self.fed is None:  # the outermost call
                    self.fed = self.tensors(given) + self.tensors(keywords)
                self.stack.append((name, type(module).__name__))
                if norm and self.reached is None:
                    self.reached = next((each for each in self.tensors(given) if bad(torch, each)), None)

            def leave(module, given, out):
                if self.stack:
                    self.stack.pop()

            return [entering(module, enter), module.register_forward_hook(leave)]

        def tensors(self, value, depth=0):
            if isinstance(value, torch.Tensor):
                return [value]
            if isinstance(value, dict):
                value = list(value.values())
            if not isinstance(value, (list, tuple)) or depth > 4:
                return []
            return [each for item in value for each in self.tensors(item, depth + 1)]

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            given = self.tensors(args) + self.tensors(kwargs)
            wrong = [each for each in given if bad(torch, each)]
            size = None if wrong else largest(torch, given)
            for each in wrong:
                if id(each) not in self.made and id(each) not in self.taken:
                    self.taken[id(each)] = place()
                    self.alive.append(each)
            out = func(*args, **kwargs)
            for each in self.tensors((out,)):
                if bad(torch, each) and not any(each is one for one in wrong):  # torch.from_numpy hands its own on
                    self.alive.append(each)
                    if id(each) not in self.made or wrong == []:
                        self.made[id(each)] = (func, kwargs, given, wrong, size, list(self.stack), place())
                        self.note(each, given, wrong, list(args) + list(kwargs.values()))
            return out

        def note(self, out, given, wrong, arguments):
            """Masks, and whether this is NaN that arises of nothing else: a softmax of a row that is masked
            throughout."""
            nan = bool(torch.isnan(out).any())
            if not wrong and not nan and (not given or any(map(infinite, arguments))):
                self.masks.add(id(out))
            elif wrong and all(map(self.masking, wrong)):
                (self.masked if nan else self.masks).add(id(out))

        def masking(self, tensor):
            """One that was filled in, or a buffer that holds -Inf and nothing worse."""
            if id(tensor) in self.made:
                return id(tensor) in self.masks
            kept = any(each.data_ptr() == tensor.data_ptr() for each in self.net.buffers())
            return kept and not bool((torch.isnan(tensor) | (tensor == float("inf"))).any())

        def origin(self, tensor, norms):
            """Back to the operation that made NaN or Inf of finite numbers, or the tensor that held it."""
            for _ in range(len(self.alive) + 1):
                if id(tensor) not in self.made:
                    return self.held(tensor, norms) if self.kept(tensor) else self.brought(tensor)
                func, kwargs, given, wrong, size, stack, where = self.made[id(tensor)]
                if not wrong or id(tensor) in self.masked:
                    return self.said(func, kwargs, given, size, stack, where, tensor, norms)
                others = [each for each in wrong if each is not tensor]
                tensor = next((each for each in others if not self.masking(each)), others[0] if others else None)
                if tensor is None:
                    return {}
            return {}

        def said(self, func, kwargs, given, size, stack, where, out, norms):
            name, kind = stack[-1] if stack else ("", "")
            if not given or name in norms:  # a constant, or the layer itself, which is judged for it
                return {}
            return {
                "op": str(func).replace("aten.", "").partition(".")[0],
                "dtype": str(out.dtype).replace("torch.", ""),
                "largest": size,
                "held": "",
                "module": name,
                "kind": kind if name else "",
                "where": where[0],
                "code": where[1],
            }

        def kept(self, tensor):
            """The name of the parameter or buffer that it is; "" for none."""
            known = list(self.net.named_parameters()) + list(self.net.named_buffers())
            return next((name for name, each in known if each.data_ptr() == tensor.data_ptr()), "")

        def held(self, tensor, norms):
            """Of a parameter or buffer: its name."""
            name = self.kept(tensor)
            module = name.rpartition(".")[0]
            if module in norms:
                return {}
            kind = type(dict(self.net.named_modules())[module]).__name__
            return {"op": "", "dtype": "", "largest": None, "held": name, "module": module, "kind": kind, "where": "",
                    "code": ""}  # fmt: skip

        def brought(self, tensor):
            """Of a tensor that came from elsewhere: with the batch, or out of code that is none of torch's."""
            if any(each is tensor or each.data_ptr() == tensor.data_ptr() for each in self.fed or ()):
                return {"from": "input"}
            where = self.taken.get(id(tensor), ("", ""))
            return {"from": "outside", "where": where[0], "code": where[1]}

    return Follower


def entering(module, hook):
    try:
        return module.register_forward_pre_hook(hook, with_kwargs=True)
    except TypeError:  # before torch 2.0
        return module.register_forward_pre_hook(lambda module, given: hook(module, given, {}))


def place():
    """("file.py:12", its text) of the user's line that runs."""
    frame, theirs = sys._getframe(2), os.sep + "torch" + os.sep
    while frame is not None:
        name = frame.f_code.co_filename
        if not (name.startswith("<") or name.startswith(WORKER) or theirs in name):
            text = linecache.getline(name, frame.f_lineno).strip()
            return "%s:%d" % (os.path.basename(name), frame.f_lineno), text[:200]
        frame = frame.f_back
    return "", ""
