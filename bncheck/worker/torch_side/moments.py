"""What one forward of a normalising layer shows: its state, its input's moments, and what its output reveals.

Loaded by torch_side/watching.py by path. Python 3.7 syntax; runs in the user's process: no random numbers, nothing
recorded for a gradient, nothing written to a tensor of theirs.
"""

import math

import numpy as np

SMALL = 1 << 16  # values up to which an input is summed in float64 as it is
NARROW = ("torch.float32", "torch.float16", "torch.bfloat16")  # by name: torch 1.1 has no bfloat16
CANCELS = 8.0  # mean² over variance beyond which squares are taken behind the mean, in a second pass
COARSE = 1e6  # and beyond which float32 is too coarse for that, too
POINTS, SAMPLES = 64, 8  # values per channel that the fit of the output takes, of so many samples
LINE = 16  # values of float32 in a cache line
LONGEST, SHORTEST = 1024, 64  # values that are added up in float32, and to fewer of which a call is not worth it
PIECE = 1 << 17  # values that lie in the second cache
FLAT = 1e-6  # spread of the input, relative to its size, below which nothing can be fitted


def held(tensor):
    """A copy of a small tensor as a flat NumPy array in its own dtype; types that NumPy lacks are widened."""
    data = tensor.detach()
    try:
        return data.numpy().flatten()
    except (TypeError, RuntimeError):  # of an accelerator, or of a type that NumPy lacks
        data = data.cpu()
    try:
        return data.numpy().flatten()
    except (TypeError, RuntimeError):
        return data.float().numpy().flatten()


def number(value):
    """A float of a hyperparameter; NaN where it is none (momentum=None, a property that raises)."""
    if isinstance(value, (int, float)):
        return float(value)
    if hasattr(value, "numel") and value.numel() == 1:
        return float(value)
    return math.nan


def input_moments(torch, x, axis):
    """(mean, biased variance, count of NaN and Inf) per channel, float64.

    Sums over whole rows in float32 cost a fiftieth of the convolution in front of the layer; rows are added up in
    float64. Where the mean is large beside the deviation, squares would cancel: they are taken behind the mean.
    """
    mean = var = None
    if x.numel() > SMALL and str(x.dtype) in NARROW:
        mean, var = rows(torch, x.float(), axis)
    if mean is None or not exact(mean, var):
        dims = [dim for dim in range(x.dim()) if dim != axis]
        wide = x.double()
        center = wide.mean(dims, keepdim=True)
        off = wide - center
        mean, var = center.reshape(-1).cpu().numpy(), (off * off).mean(dims).cpu().numpy()
    bad = 0
    if not (np.isfinite(mean).all() and np.isfinite(var).all()):
        bad = int((~torch.isfinite(x)).sum())
    return mean, var, bad


def exact(mean, var):
    """Whether sums in float32 are fine enough for these."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(var).all()) and not (mean * mean > COARSE * var).any()


def rows(torch, x, axis):
    """(mean, variance) by sums of rows; (None, None) for a memory layout that has none."""
    shape, across = x.shape, 1
    if axis != 1 or x.dim() < 2:
        return None, None
    if x.dim() == 2:
        lines, across = x.unsqueeze(0), 1
    elif x.is_contiguous():
        lines, across = x.reshape(shape[0], shape[1], -1), 2
    elif x.dim() == 4 and x.permute(0, 2, 3, 1).is_contiguous():
        lines = x.permute(0, 2, 3, 1).reshape(shape[0], -1, shape[1])
    else:
        return None, None
    count = x.numel() // shape[1]
    with np.errstate(all="ignore"):
        total, square = added(torch, lines, across)
        mean = total / count
        square = square / count - mean * mean
        if (mean * mean > CANCELS * square).any():
            center = torch.from_numpy(mean).to(device=x.device, dtype=torch.float32)
            total, off = added(torch, lines - center.view((1, -1, 1) if across == 2 else (1, 1, -1)), across)
            square = off / count - (total / count) ** 2
    return mean, square


def added(torch, lines, across):
    """(sum, sum of squares) of each channel: of rows in float32, of those in float64: so few numbers NumPy adds sooner
    than torch is called."""
    found = products(lines) if across == 2 else None
    if found is not None:
        return found.sum((1, 3), dtype=np.float64)
    sums = lines.sum(across).cpu().numpy().sum(0, dtype=np.float64)
    if across == 1:
        return sums, (lines * lines).sum(1).cpu().numpy().sum(0, dtype=np.float64)
    norm = (torch.linalg.vector_norm if hasattr(torch, "linalg") else torch.norm)(lines, dim=2)
    norm = norm.cpu().numpy().astype(np.float64)
    return sums, np.einsum("ij,ij->j", norm, norm)


def products(lines):
    """(sums, sums of squares) of rows (rows, C, places) in the processor's memory, each (rows, C, parts) float32; None
    where rows have no parts of a good length. A part's sums come out of products of vectors: at half the price of
    sum() and of a norm, and read from memory once, a piece at a time."""
    long = width(lines.shape[2]) if lines.device.type == "cpu" else 0
    if not long:
        return None
    parts = lines.numpy().reshape(-1, long)
    found, one = np.empty((2, len(parts)), np.float32), ones(long)
    step = max(1, PIECE // long)
    for at in range(0, len(parts), step):
        row = parts[at : at + step, None, :]  # vector by vector: a product with a matrix would start threads
        np.matmul(row, one, out=found[0, at : at + step, None, None])
        np.matmul(row, row.swapaxes(1, 2), out=found[1, at : at + step, None, None])
    return found.reshape(2, *lines.shape[:2], -1)


def width(length, _known={}):  # noqa: B006 - the default is the cache
    """The longest part that a row falls into; 0 where there is none that a product is worth."""
    if length not in _known:
        parts = range(min(length, LONGEST), SHORTEST - 1, -1)
        _known[length] = next((part for part in parts if length % part == 0), 0)
    return _known[length]


def ones(length, _known={}):  # noqa: B006 - the default is the cache
    if length not in _known:
        _known[length] = np.ones((length, 1), np.float32)
    return _known[length]


def points(x, y, axis):
    """(C, K) float64 of some values per channel of two tensors of one shape, from the same places of both."""
    if axis == 1 and x.dim() > 2 and x.is_contiguous() and y.is_contiguous():
        where = runs(x.shape)
        if where is not None:
            size, stride = where
            return [
                each.as_strided(size, stride, each.storage_offset()).double().cpu().numpy().reshape(size[0], -1)
                for each in (x, y)
            ]
    return [scattered(each, axis) for each in (x, y)]


def runs(shape, _known={}):  # noqa: B006 - the default is the cache
    """(size, stride) of a view of POINTS values per channel, a cache line of neighbours at a time: values that lie
    scattered cost as much as the whole tensor. Each sample shows another place. None where there are few to choose."""
    if shape not in _known:
        places, channels = 1, shape[1]
        for length in shape[2:]:
            places *= length
        every = -(-shape[0] // SAMPLES)
        samples = -(-shape[0] // every)
        run = max(1, min(LINE, POINTS // samples))
        pieces = max(1, POINTS // (samples * run))
        between = places // pieces
        drift = max(0, between - run) // max(1, samples - 1)
        fits = places * samples >= 4 * POINTS
        size, stride = (channels, samples, pieces, run), (places, every * channels * places + drift, between, 1)
        _known[shape] = (size, stride) if fits else None
    return _known[shape]


def scattered(x, axis):
    channels = x.shape[axis]
    if axis == 1 and x.dim() > 2:
        samples = x[:: -(-x.shape[0] // SAMPLES)]
        places = x.numel() // max(1, x.shape[0] * channels)
        step = max(1, places * samples.shape[0] // POINTS)
        flat = samples.reshape(samples.shape[0], channels, -1)[:, :, :: step | 1].permute(1, 0, 2)
    else:
        flat = x.transpose(0, axis) if axis else x
        if axis == 1:
            flat = flat[:, :: -(-x.shape[0] // POINTS)]
    return flat.double().cpu().numpy().reshape(channels, -1)


def revealed(x, y, gamma, beta):
    """(m, r, residual) of y = gamma·(x − m)·r + beta per channel, by least squares of y on x (both (C, K) float64).

    NaN where x does not vary enough, where gamma is zero, or where something is not finite.
    """
    with np.errstate(all="ignore"):
        count = x.shape[1]
        center, level = np.add.reduce(x, 1) / count, np.add.reduce(y, 1) / count
        dx, dy = x - center[:, None], y - level[:, None]
        spread = np.einsum("ij,ij->i", dx, dx)
        # Against the size of the input: no value is larger than the mean and the spread together.
        flat = ~(spread > count * (FLAT * (np.abs(center) + np.sqrt(spread))) ** 2)
        slope = np.where(flat, np.nan, np.einsum("ij,ij->i", dx, dy) / spread)
        start = level - slope * center
        shift = 0.0 if beta is None else beta.astype(np.float64)
        scale = 1.0 if gamma is None else gamma.astype(np.float64)
        invstd = np.where(scale == 0, np.nan, slope / np.where(scale == 0, 1.0, scale))
        mean = np.where(slope == 0, np.nan, (shift - start) / np.where(slope == 0, 1.0, slope))
        dx *= slope[:, None]
        dy -= dx  # what the straight line leaves
        off = np.abs(dy, out=dy).max(1)
        most = np.maximum(y.max(1) - shift, shift - y.min(1))
        known = np.isfinite(off) & np.isfinite(invstd)
        residual = float(off[known].max() / max(most[known].max(), 1e-300)) if known.any() else math.nan
    return mean, invstd, residual, slope, start


def output_scale(mean, var, slope, start, y):
    """Standard deviation of all outputs together: out of the input's moments where each channel is a straight line of
    it, else out of the points."""
    with np.errstate(all="ignore"):
        if np.isfinite(slope).all():
            levels = slope * mean + start
            return float(np.sqrt((slope * slope * var).mean() + levels.var()))
        return float(y.std())


def forward(torch, x, y, axis, state):
    """The arrays of one moment that the input and output show. ``state`` has gamma and beta where the layer has."""
    with torch.no_grad():
        x, y = x.detach(), y.detach()
        mean, var, bad = input_moments(torch, x, axis)
        found = {"input_mean": mean, "input_var": var, "input_bad": bad, "samples": int(x.shape[0])}
        shared = x.data_ptr() == y.data_ptr()  # an in-place layer has overwritten its input
        if shared or y.shape != x.shape:
            wide = y.double()
            found["output_bad"] = int((~torch.isfinite(y)).sum())
            found["output_scale"] = float(wide.std(unbiased=False)) if y.numel() else math.nan
            found["used_mean"] = found["used_invstd"] = np.full(len(mean), np.nan)
            found["used_residual"] = math.nan
            return found
        xs, ys = points(x, y, axis)
        m, r, residual, slope, start = revealed(xs, ys, state.get("gamma"), state.get("beta"))
        found.update(used_mean=m, used_invstd=r, used_residual=residual)
        found["output_scale"] = output_scale(mean, var, slope, start, ys)
        certain = not bad and np.isfinite(slope).all() and residual < 1e-2
        found["output_bad"] = 0 if certain else int((~torch.isfinite(y)).sum())
        return found
