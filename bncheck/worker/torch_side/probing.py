"""What the tensors of a layer are for: each is given other values, and the output in eval says what it does.

A running mean shifts the output; a variance, a deviation, one over it or a logarithm stretches it, each by a power of
its own. So statistics are known that no forward moves, and a gamma and a beta of any name. Loaded by path beside
shown.py, for layers of the user's whose names say nothing. Python 3.7 syntax. The layer is a copy that nobody needs.
"""

import sys

import numpy as np

STRAIGHT = 1e-3  # of the output's deviation: how far y may be from a straight line over x in each channel
SAME = 1e-3  # relative
POWERS = (("", -0.5), ("deviation", -1.0), ("inverse", 1.0))  # of what is held, in the slope of y
POWER = 0.03  # an eps of up to 0.05 beside a variance of 1 to 4
VALUES = (1.0, 2.0, 4.0)
BATCH = 1e-2  # of y: what eps leaves of the difference between a batch and the same stretched and shifted
MOST = 8  # samples
MANY, SIDE = 1 << 18, 8  # values of a batch of which fewer positions do
STARTS = (100.0, 20.0)  # ones over a deviation, of variances of which an eps is a part that shows
FEW = 2e-2  # of eps: how far it may differ from channel to channel


class Probe:
    """One layer, on noise of the shape and type of what it was given, with its channels along ``axis``."""

    def __init__(self, torch, module, given, axis):
        self.torch, self.module, self.axis, self.size = torch, module, axis, given.shape[axis]
        wide = [1] * given.dim()
        wide[axis] = self.size
        self.grow = torch.linspace(1.0, 2.0, self.size, dtype=given.dtype).reshape(wide)
        given = given[:MOST]
        for dim in range(1, given.dim()) if given.numel() > MANY else ():
            given = given if dim == axis else given.narrow(dim, 0, min(given.shape[dim], SIDE))
        self.x = torch.randn_like(given) * self.grow + self.grow.flip(axis)

    def rows(self, values):
        return np.moveaxis(values.detach().double().numpy(), self.axis, 0).reshape(self.size, -1)

    def out(self, training, x):
        """What it gives, or None where that is not one tensor of that shape, all finite."""
        try:
            with self.torch.no_grad():
                y = self.module.train(training)(x)
        except (Exception, SystemExit):
            return None  # it takes more than one input, or other values
        fits = isinstance(y, self.torch.Tensor) and y.shape == x.shape and y.is_floating_point()
        return self.rows(y) if fits and bool(self.torch.isfinite(y.double()).all()) else None

    def line(self):
        """(slope, offset) of y over x in eval, each (size,); None where it is no straight line in each channel."""
        y, x = self.out(False, self.x), self.rows(self.x)
        if y is None:
            return None
        mean, spread = x.mean(1), x.var(1)
        slope = ((x - mean[:, None]) * y).mean(1) / spread
        offset = y.mean(1) - slope * mean
        off = np.abs(y - slope[:, None] * x - offset[:, None]).max(1)
        straight = (off <= STRAIGHT * y.std(1)).all() and (slope != 0).all()
        return (slope, offset) if straight else None

    def lines(self, tensor):
        """One for each of VALUES in the place of what a tensor holds; None where one of them is none."""
        was, found = tensor.detach().clone(), []
        for value in VALUES:
            tensor.data.fill_(value)
            found.append(self.line())
        tensor.data.copy_(was)
        return found if all(each is not None for each in found) else None

    def normalises(self):
        """Whether in training it takes each channel's own mean and deviation off, as the batch has them."""
        one, two = (self.out(True, x) for x in (self.x, 2.0 * self.x + 1.0))
        if one is None or two is None:
            return False
        return bool(one.std() > 0) and bool(np.abs(one - two).max() <= BATCH * one.std())


def words_of(probe, tensors):
    """The words of keeping.py for the statistics among {name: tensor}; None where the layer does not normalise by the
    batch in training, or where not just one of them shifts its output in eval and one stretches it."""
    if not probe.normalises():
        return None
    lines = {name: probe.lines(each) for name, each in tensors.items()}
    roles = {name: role_of(each) for name, each in lines.items() if each is not None}
    means = [name for name, role in roles.items() if role == "mean"]
    spreads = [name for name, role in roles.items() if role not in ("mean", None)]
    if len(means) != 1 or len(spreads) != 1:
        return None
    words = {"mean": means[0], "var": "", "deviation": "", "counter": "", "gamma": "", "beta": "", "probed": True}
    form = roles[spreads[0]]
    words["deviation" if form else "var"] = spreads[0]
    unsure = {"eps": 0.0, "unsure": True} if form == "inverse" else {}
    return dict(words, form=form, **unsure) if form else words


def add_weights(probe, words):
    """Put in the names of gamma and beta, where its output says which they are."""
    held = {name: each for name, each in probe.module._parameters.items() if each is not None}
    found = weights(probe, {name: each for name, each in held.items() if each.numel() == probe.size})
    for what, name in found.items():
        if name or words[what] in found.values():
            words[what] = name


def add_eps(probe, words):
    """Put in the eps within one over a deviation, where the layer holds none and its steps show one."""
    found = [eps_within(probe, words, start) for start in STARTS] if words.get("unsure") else []
    if found and None not in found and abs(found[0] - found[1]) <= FEW * max(found):
        words["eps"] = float("%.3g" % found[0])
        del words["unsure"]


def eps_within(probe, words, start):
    """Of a layer that averages the variance and holds (var + eps)**-0.5: one training forward from ``start`` takes what
    it holds to the power of -2 the same share of the way to the batch's variance and eps, in all channels. None where
    n and n - 1 give two, or neither gives one."""
    x = probe.torch.randn_like(probe.x) * 0.01 * probe.grow + 0.05 * probe.grow
    kept = sys.modules["bncheck_torch_keeping"].kept
    mean, held = (kept(probe.module, words[word]).data for word in ("mean", "deviation"))
    mean.zero_()
    held.fill_(start)
    if probe.out(True, x) is None:
        return None
    rows = probe.rows(x)
    n, var = rows.shape[1], rows.var(1)
    after, now = (
        kept(probe.module, words[word]).detach().double().numpy().reshape(-1) for word in ("mean", "deviation")
    )
    share = after / rows.mean(1)
    if not (np.isfinite(now) & (now > 0)).all() or np.ptp(share) > SAME * np.abs(share).max() or not 0 < share[0] <= 1:
        return None
    return one_eps((now**-2.0 - start**-2) / share - each + start**-2 for each in (var, var * n / (n - 1.0)))


def one_eps(found):
    """The eps of all channels, of what n and n - 1 make of each; None where these give two, or neither gives one."""
    best, other = sorted(found, key=np.ptp)
    value = float(np.median(best))
    if not (value > 0 and np.ptp(best) <= FEW * value):
        return None
    alike = np.abs(other - value).max() <= FEW * value  # of a large batch: what the divisor makes is no part of eps
    return value if alike or np.ptp(other) > 5 * np.ptp(best) else None


def role_of(lines):
    """ "mean", a form of a variance ("" for the variance itself), or None."""
    slopes, offsets = (np.array(each) for each in zip(*lines))
    steps = np.diff(VALUES)[:, None]
    if near(slopes[1:], slopes[:-1]):
        return "mean" if near(np.diff(offsets, axis=0), -slopes[1:] * steps) else None
    with np.errstate(all="ignore"):
        ratios = slopes[1:] / slopes[:-1]
        powers = np.log(ratios) / np.log(2.0)
        rate = np.log(ratios) / steps
    if not np.isfinite(powers).all():
        return None
    for form, due in (("logarithm", -0.5), ("log deviation", -1.0)):
        if (np.abs(rate - due) < POWER).all():
            return form
    return next((form for form, power in POWERS if (np.abs(powers - power) < POWER).all()), None)


def contrary(probe, tensors):
    """Names of {name: tensor} whose part in eval is none that a variance or a moment has."""
    lines = {name: probe.lines(each) for name, each in tensors.items()}
    return [name for name, each in lines.items() if each is not None and no_moment([slope for slope, _ in each])]


def no_moment(slopes):
    """Whether y grows with what is held, as with a precision, or falls by one factor for each unit of it, as with a
    logarithm of whatever."""
    slopes = np.abs(slopes)
    if near(slopes[1:], slopes[:-1]):
        return False
    with np.errstate(all="ignore"):
        rates = np.diff(np.log(slopes), axis=0) / np.diff(VALUES)[:, None]
    return bool((rates > 0).all() or (np.abs(rates[1:] - rates[:-1]) < POWER * np.abs(rates[:-1])).all())


def weights(probe, tensors):
    """{"gamma", "beta"}: names of {name: tensor}; "" where not just one stretches or shifts."""
    found = {"gamma": [], "beta": []}
    for name, each in tensors.items():
        lines = probe.lines(each)
        if lines is None:
            continue
        slopes, offsets = (np.array(each) for each in zip(*lines))
        steps = np.diff(VALUES)[:, None]
        if near(slopes[1:], slopes[:-1]):
            found["beta"] += [name] if near(np.diff(offsets, axis=0), steps + 0.0 * offsets[1:]) else []
        else:
            rates = np.diff(slopes, axis=0) / steps
            found["gamma"] += [name] if near(rates[1:], rates[:-1]) else []
    return {what: names[0] if len(names) == 1 else "" for what, names in found.items()}


def near(one, two):
    return bool((np.abs(one - two) <= SAME * (np.abs(one) + np.abs(two)) + 1e-12).all())
