"""The same samples in eval, in batches of several sizes: how far apart each layer's outputs lie.

Loaded by backends/torch.py by path. Python 3.7 syntax. Two numbers per layer and size, against the largest batch:
``carried``, with everything that the layers before it did, and ``own``, with the very same input bits. A layer whose
``own`` is 0 is batch-invariant down to the bit, wherever it stands in the network.
"""

import numpy as np


def compare(model, x, sizes, samples):
    """Arrays depth_carried, depth_own (sizes, layers), depth_scale (layers,), depth_l1, depth_max (sizes,).

    The first ``samples`` samples of the batch are looked at (default: at most 4 that fit into the largest size).
    """
    torch = model.torch
    sizes = sorted({int(size) for size in sizes})
    largest = sizes.pop()
    samples = min(4, largest) if samples is None else samples
    data = model.tensor(x)[:largest]
    model.net.eval()
    watch = Watch(torch, model.net, sizes, samples)
    with torch.no_grad(), model.unwatched():
        watch.start(data[:1])
        try:
            full = watch.run(data, "reference", None)
            found = [
                torch.cat([watch.run(piece, "carried", place) for piece in pieces(data, size, samples)])[:samples]
                for place, size in enumerate(sizes)
            ]
        finally:
            watch.stop()
    gaps = [gap_of(torch, out.double(), full[:samples].double()).reshape(samples, -1) for out in found]
    arrays = {
        "depth_carried": watch.carried,
        "depth_own": watch.own,
        "depth_scale": watch.scale,
        "depth_l1": np.array([float(gap.sum(1).mean()) for gap in gaps]),
        "depth_max": np.array([float(gap.max()) for gap in gaps]),
    }
    shown = full[:samples].double().abs().reshape(samples, -1)
    size = float(torch.where(shown < float("inf"), shown, torch.zeros_like(shown)).sum(1).mean())
    notes = {
        "sizes": sizes, "largest": largest, "samples": samples, "l1_of_output": size,
        "layers": watch.names, "kinds": watch.kinds, "batch_norm": watch.is_norm,
    }  # fmt: skip
    return {"output": model.array(full), "arrays": arrays, "notes": {"depth": notes}}


def pieces(data, size, samples):
    """Batches of ``size`` from the front that hold the samples; the last may be the network's own further samples."""
    return [data[start : start + size] for start in range(0, samples, size)]


class Watch:
    """Hooks on every module without children, in the order in which a forward calls them."""

    def __init__(self, torch, net, sizes, samples):
        self.torch, self.net, self.sizes, self.samples = torch, net, sizes, samples
        self.leaves = [(name, module) for name, module in net.named_modules() if not list(module.children())]
        self.names, self.kinds, self.is_norm, self.hooks = [], [], [], []
        self.inside, self.stage, self.place, self.calls, self.first = False, "order", None, 0, 0
        self.widths, self.kept, self.room = [], [], None

    def start(self, one):
        for name, module in self.leaves:
            self.hooks.append(module.register_forward_hook(self.hook(name)))
        self.net(one)
        shape = (len(self.sizes), len(self.names))
        self.carried, self.own, self.scale = np.zeros(shape), np.zeros(shape), np.zeros(len(self.names))
        self.kept = [None] * len(self.names)
        # One block for all that is kept: small pieces between the large ones of a forward cost twice their size.
        ends = np.cumsum([0] + [width * self.samples for width in self.widths])
        self.places, self.room = ends.tolist(), self.torch.empty(int(ends[-1]), dtype=one.dtype, device=one.device)

    def stop(self):
        for hook in self.hooks:
            hook.remove()

    def run(self, data, stage, place):
        """One forward; ``first`` counts the samples that earlier pieces of the same size have shown."""
        if self.place != place:
            self.first = 0
        self.stage, self.place, self.calls = stage, place, 0
        out = self.net(data)
        self.first += len(data)
        return out

    def hook(self, name):
        def look(module, given, out):
            if self.inside or not isinstance(out, self.torch.Tensor):
                return
            if self.stage == "order":
                self.names.append(name)
                self.kinds.append(type(module).__name__)
                self.widths.append(out[:1].numel())
                self.is_norm.append(isinstance(module, self.torch.nn.modules.batchnorm._BatchNorm))
                return
            call, self.calls = self.calls, self.calls + 1
            if self.stage == "reference":
                self.keep(call, module, given, out)
            else:
                known = self.kept[call][self.first : self.first + len(out)]
                gap = largest_gap(self.torch, out[: len(known)], known)
                self.carried[self.place, call] = max(self.carried[self.place, call], gap)

        return look

    def keep(self, call, module, given, out):
        """Hold on to the samples' outputs, and give the layer the same input bits again in smaller batches."""
        front = out[: self.samples]
        room = self.room[self.places[call] : self.places[call + 1]]
        fits = front.dtype == room.dtype and front.numel() == room.numel()
        self.kept[call] = room.view(front.shape).copy_(front) if fits else front.clone()
        self.scale[call] = largest_finite(front)
        self.inside = True
        try:
            for place, size in enumerate(self.sizes):
                for start in range(0, self.samples, size):
                    again = module(*[item[start : start + size] for item in given])[: self.samples - start]
                    gap = largest_gap(self.torch, again, front[start : start + size])
                    self.own[place, call] = max(self.own[place, call], gap)
        finally:
            self.inside = False


def gap_of(torch, a, b):
    """|a − b|, 0 where both are the same NaN or Inf: that a sample is NaN in every batch says nothing about batches."""
    gap = (a - b).abs()
    return torch.where((a == b) | (torch.isnan(a) & torch.isnan(b)), torch.zeros_like(gap), gap)


def largest_gap(torch, a, b):
    """Largest |a − b| as a float; a NaN or Inf on one side only counts as infinite."""
    if a.numel() == 0 or a.equal(b):  # the usual case, and the cheapest question
        return 0.0
    gap = float(gap_of(torch, a, b).max())
    return gap if np.isfinite(gap) else float("inf")


def largest_finite(a):
    """Largest |a| that is finite, 0 for none; max() of a NaN is NaN, which costs no second pass to see."""
    if a.numel() == 0:
        return 0.0
    largest = float(a.abs().max())
    if np.isfinite(largest):
        return largest
    held = a.detach().abs().double().cpu().numpy()
    return float(np.max(np.where(np.isfinite(held), held, 0.0)))
