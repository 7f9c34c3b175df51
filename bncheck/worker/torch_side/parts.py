"""A layer of the user's own that takes its channels in several tensors, or as complex numbers.

Loaded by backends/torch.py by path. Python 3.7 syntax. The network around it has one real tensor; ``network.parts``
says how it is handed over: 2 splits the channels in halves, layer(real, imaginary), "complex" makes one complex tensor
of them. The buffers come in many shapes and are put in one order: means part by part, covariances as the rows of the
upper triangle.
"""

COVARIANCES = ("running_covar", "running_cov", "running_covariance")


def count_of(parts):
    return 2 if parts == "complex" else int(parts)


def adapter_class(torch, error):
    """A module of one tensor around ``inner``; ``error`` is the class of what is said about an output."""

    class Parts(torch.nn.Module):
        def __init__(self, inner, parts):
            super(Parts, self).__init__()
            self.inner, self.count, self.complex = inner, count_of(parts), parts == "complex"

        def forward(self, x):
            pieces = x.chunk(self.count, dim=1)
            name, like = type(self.inner).__name__, pieces[0]
            if self.complex:
                out = self.inner(torch.complex(*pieces))
                if not getattr(out, "is_complex", bool)():
                    raise error("%s was given a complex tensor and returns %s" % (name, kind_of(out)))
                out = (out.real, out.imag)
            else:
                out = self.inner(*pieces)
                if not isinstance(out, (tuple, list)) or len(out) != self.count:
                    raise error("%s was given %d tensors and returns %s" % (name, self.count, kind_of(out)))
            for each in out:
                if each.shape != like.shape or each.dtype != like.dtype:
                    raise error(
                        "%s turns %s of the shape %s into %s of the shape %s; BatchNorm keeps both"
                        % (name, like.dtype, tuple(like.shape), each.dtype, tuple(each.shape))
                    )
            return torch.cat(list(out), dim=1)

    return Parts


def kind_of(out):
    if isinstance(out, (tuple, list)):
        return "%d things" % len(out)
    return "a tensor of %s" % out.dtype if hasattr(out, "dtype") else "a %s" % type(out).__name__


class Layout:
    """Where a layer of ``parts`` keeps its means and covariances; read off its buffers as they were at the start.

    A covariance of three rows has two variances and one mixed term, and people order them in two ways: at the start
    the mixed term is the row that is zero.
    """

    def __init__(self, norm, parts, channels):
        self.norm, self.count, self.channels = norm, count_of(parts), channels // count_of(parts)
        self.key = next((name for name in COVARIANCES if getattr(norm, name, None) is not None), None)
        self.form = None if self.key is None else self.form_of(getattr(norm, self.key).detach())

    def form_of(self, covar):
        """(kind, order): "matrix first" (k, k, C), "matrix last" (C, k, k), "rows" (3, C) or "columns" (C, 3); None."""
        k, c, shape = self.count, self.channels, tuple(covar.shape)
        if shape in ((k, k, c), (c, k, k)):
            return ("matrix first" if shape == (k, k, c) else "matrix last", None)
        if k != 2 or sorted(shape) != sorted((3, c)) or len(shape) != 2:
            return None
        for kind, rows in (("rows", covar), ("columns", covar.t())):
            if rows.shape[0] == 3:
                mixed = [place for place in range(3) if not bool((rows[place] != 0).any())]
                if len(mixed) == 1 and mixed[0] in (1, 2):
                    return kind, ([0, 1, 2] if mixed[0] == 1 else [0, 2, 1])
        return None

    def mean(self):
        """(parts·C,) real; None where the layer has none of a known shape."""
        held = getattr(self.norm, "running_mean", None)
        if held is None:
            return None
        held = held.detach()
        if getattr(held, "is_complex", bool)():
            held = stack(held.real, held.imag)
        elif tuple(held.shape) == (self.channels, self.count) and self.channels != self.count:
            held = held.t()
        return held.reshape(-1) if held.numel() == self.count * self.channels else None

    def covar(self):
        """(k(k+1)/2, C), rows of the upper triangle; None where its layout is not known."""
        if self.form is None:
            return None
        kind, order = self.form
        held = getattr(self.norm, self.key).detach()
        if order is not None:
            rows = held if kind == "rows" else held.t()
            return rows[order]
        full = held if kind == "matrix first" else held.permute(1, 2, 0)
        return stack(*[full[i, j] for i in range(self.count) for j in range(i, self.count)])

    def state(self):
        """running_mean, running_var (the diagonal, part by part) and running_covar as NumPy arrays."""
        found, mean, covar = {}, self.mean(), self.covar()
        if mean is not None:
            found["running_mean"] = mean.cpu().numpy().copy()
        if covar is not None:
            covar = covar.cpu().numpy().copy()
            found["running_covar"] = covar.reshape(-1)
            found["running_var"] = covar[self.diagonal()].reshape(-1)
        return found

    def diagonal(self):
        """Places of the variances among the rows of the upper triangle."""
        return [i * self.count - i * (i - 1) // 2 for i in range(self.count)]

    def start(self, what, values):
        """Put the host's initial values (parts·C numbers) into the buffers; those whose layout is unknown stay."""
        rows = values.reshape(self.count, self.channels)
        if what == "running_mean":
            held = getattr(self.norm, "running_mean", None)
            if held is not None and getattr(held, "is_complex", bool)():
                held.real.copy_(rows[0]), held.imag.copy_(rows[1])
            elif held is not None and held.numel() == rows.numel():
                turned = tuple(held.shape) == (self.channels, self.count) and self.channels != self.count
                held.copy_((rows.t() if turned else rows).reshape(held.shape))
        elif what == "running_var" and self.form is not None:
            held, (kind, order) = getattr(self.norm, self.key), self.form
            for part in range(self.count):
                if order is not None:
                    (held if kind == "rows" else held.t())[order[2 if part else 0]].copy_(rows[part])
                else:
                    (held if kind == "matrix first" else held.permute(1, 2, 0))[part, part].copy_(rows[part])


def stack(*rows):
    import torch

    return torch.stack(rows)
