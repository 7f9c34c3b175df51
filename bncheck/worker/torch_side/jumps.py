"""Statistics that something else than a forward has changed, and the first NaN or Inf of a layer.

Loaded by watching.py by path. Python 3.7 syntax.
"""

import sys

import numpy as np

keeping = sys.modules["bncheck_torch_keeping"]  # watching.py has loaded it
MOST_CAUSES = 1000  # a reset of a deep network is one of each layer
same, equal, finite = keeping.same, keeping.equal, keeping.finite


class Jumps:
    """The part of Watching that tells of them: by ``recorder``, ``local`` and ``causes``, what happened lately."""

    def changes(self, what, where, module=None):
        """Something happened that could have changed the state of the layers inside a module (None: of any)."""
        self.interrupt()
        inside = None if module is None else set(map(id, module.modules()))
        self.causes = [*self.causes[-MOST_CAUSES:], (what, where, self.recorder.forwards, inside)]

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
            norm.jumped = norm.layer.forwards
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
        if moved and finite(*norm.after[:2]):
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
        if clean and norm.before is not None and not finite(*norm.before[:2]):
            place = "state"
        self.recorder.happen(
            "nonfinite", [norm.layer.number], self.local.where, **{"in": place if clean else "input", "born": clean}
        )
        self.recorder.notable()
        return True
