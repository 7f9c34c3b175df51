"""What a worker records of a cell: states, moments of every layer's input, what its output reveals, gradients.

The names and shapes of the arrays are those of ``bncheck/trace.py``. Python 3.7 syntax; loaded by its path.
"""

from math import gcd

import numpy as np

# Recorded only where a layer's state has them: autograd nodes behind its buffers, bytes those keep alive.
GRAPH = ("graph_nodes", "graph_bytes")
STATES = ("running_mean", "running_var", "running_covar", "gamma", "beta")
CALLED = ("input_mean", "input_var", "used_mean", "used_invstd", "used_residual")
SCALARS = ("counter", "training", "momentum", "eps")
# Batches of so few numbers are measured together: NumPy takes as long for one of them as for twenty.
SMALL, SMALL_IN_ALL = 1 << 12, 1 << 16
# Of a layer of the user's, or of one with keywords of its own, the values themselves are kept: so many per forward, and
# per cell.
WHOLE, WHOLE_IN_ALL = 1 << 15, 1 << 21


def sample(array, limit):
    """At most ``limit`` elements of an array, evenly spread by a stride that shares no factor with its size."""
    if array.size <= limit:
        return np.array(array)
    step = -(-array.size // limit)
    while gcd(step, array.size) != 1:
        step += 1
    return np.array(array.reshape(-1)[::step])


def channel_rows(array, axis):
    """(C, n) float64 rows, a copy, of an array whose channels lie on ``axis``."""
    if array.ndim == 2:
        rows = array if axis == 0 else array.T
    else:
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return np.array(rows, dtype=np.float64, order="C")


def moments(rows):
    """Two-pass mean and biased variance per channel, and the centred rows. All NaN for no values."""
    count = rows.shape[1]
    if not count:
        nothing = np.full(rows.shape[0], np.nan)
        return nothing, nothing, rows
    mean = rows.sum(axis=1) / count
    centred = rows - mean[:, None]
    # The second pass also takes out what rounding left in the mean; that of an Inf is an Inf.
    rest = np.where(np.isinf(mean), 0.0, centred.sum(axis=1) / count)
    mean = mean + rest
    centred -= rest[:, None]
    return mean, np.einsum("ij,ij->i", centred, centred) / count, centred


def reveal(centred, mean, var, out, gamma, beta):
    """Solve y = gamma·(x − m)·r + beta for m and r per channel, by least squares of y against x.

    Returns (m, r, largest residual); NaN where x is constant, gamma is 0 or anything is not finite.
    """
    count = out.shape[1]
    if not count:
        nothing = np.full(out.shape[0], np.nan)
        return nothing, nothing, nothing
    level = out.sum(axis=1) / count
    spread = out - level[:, None]
    slope = np.einsum("ij,ij->i", spread, centred) / (var * count)
    residual = np.abs(spread - slope[:, None] * centred).max(axis=1)
    used_mean = mean - (level - beta) / slope
    used_invstd = slope / gamma
    lost = ~np.isfinite(used_mean) | ~np.isfinite(used_invstd)
    return np.where(lost, np.nan, used_mean), np.where(lost, np.nan, used_invstd), np.where(lost, np.nan, residual)


def fitting(held, channels, usual):
    """What a layer holds, one number per channel; the usual one where it holds them for some of its channels alone."""
    return usual if held is None or np.size(held) not in (1, channels) else held


def per_channel(held, channels, usual):
    """(C,) of what a layer holds, ``usual`` for None; None where it holds something else than a number per channel."""
    if held is None:
        return np.full(channels, usual)
    fits = isinstance(held, np.ndarray) and held.shape == (channels,) and held.dtype.kind == "f"
    return held if fits else None


def elements(array, axis):
    """(N, C, …) of an array whose channels lie on ``axis``."""
    return np.moveaxis(array, axis, 1) if array.ndim > 2 else array


class Recorder:
    """Collects one cell's arrays event by event; ``arrays()`` stacks them under the names of the trace table.
    ``whole``: it keeps the values themselves, as of a layer of the user's."""

    def __init__(self, model, events, limit, whole=False):
        self.model, self.total, self.limit = model, len(events), limit
        self.ops = [event["op"] for event in events]
        self.states = {layer: [] for layer in model.layers}
        self.forwards = {layer: [None] * self.total for layer in model.layers}
        self.gradients = {layer: {} for layer in model.layers}
        self.network_bad = np.full(self.total, -1, dtype=np.int64)
        self.seconds = np.zeros(self.total)
        self.loose = {}
        self.shapes = {}  # layer: of its first input, in training where the model tells which layers train
        self.called = {}  # layer that a forward calls more than once: a row for each call
        self.ran = {}  # layer of a whole network: of each event, how often it was called, and whether it trained
        self.known = {}  # moments of inputs that come straight from the archive, by their address
        self.waiting, self.room_for = [], SMALL_IN_ALL  # small batches that are not measured yet
        in_parts = getattr(model, "network", {}).get("parts", 1) != 1  # channels that go in as several tensors
        self.room = WHOLE_IN_ALL if (whole or getattr(model, "custom", None)) and not in_parts else 0

    def state(self):
        found = {layer: self.model.state(layer) for layer in self.states}
        for layer, rows in self.states.items():
            rows.append(found[layer])

    def stay(self):
        """One more row as it was seen last, where a state cannot be read."""
        for rows in self.states.values():
            rows.append(rows[-1] if rows else {})

    def forward(self, event, out, source):
        told = getattr(self.model, "told", None)
        for layer, (data, result) in self.model.taps().items():
            if not self.put_off(layer, event, data, result):
                self.forwards[layer][event] = self.measure(layer, data, result, source)
            if told is None or told(layer, self.ops[event] != "eval_forward"):
                self.shapes.setdefault(layer, data.shape)
            self.keep("given", layer, event, data)
            self.keep("gave", layer, event, result)
        for layer, calls in getattr(self.model, "calls", dict)().items():
            self.called.setdefault(layer, []).extend(self.call(layer, event, *call) for call in calls)
        for layer, ways in getattr(self.model, "ran", dict)().items():
            self.ran.setdefault(layer, np.full((2, self.total), -1, dtype=np.int64))[:, event] = ways
        self.output(event, out)

    def keep(self, word, layer, event, array):
        """What a layer got, gave, or got back: all samples and positions of as many channels as fit."""
        if array.ndim < 2 or not array.size or not self.room:
            return
        values = elements(array, self.model.axis(layer))
        values = values[:, : WHOLE // (values.size // values.shape[1])]
        if values.size and values.size <= self.room:
            self.room -= values.size
            self.loose["%s/%s/%d" % (word, layer, event)] = np.array(values)

    def upstream(self, layer, event, dy):
        """The gradient that a backward brings to the last layer's output."""
        if layer in self.states:
            self.keep("upstream", layer, event, dy)

    def put_off(self, layer, event, data, result):
        """Keep a small batch until several can be measured together; False where it has to be looked at by itself."""
        if data.size > SMALL or result.size > SMALL:
            return False
        axis, state = self.model.axis(layer), self.states[layer][-1]
        rows, out = channel_rows(data, axis), channel_rows(result, axis)
        usual = ("gamma", 1.0), ("beta", 0.0)
        gamma, beta = (per_channel(state.get(name), len(rows), value) for name, value in usual)
        if rows.shape != out.shape or gamma is None or beta is None:
            return False
        self.waiting.append((self.forwards[layer], event, rows, out, gamma, beta))
        self.room_for -= rows.size
        if self.room_for < 0:
            measure_waiting([self])
        return True

    def measure(self, layer, data, result, source, state=None):
        axis = self.model.axis(layer)
        first = source is not None and data.shape == source[1].shape and np.shares_memory(data, source[1])
        facts = self.known.get(source[0]) if first else None
        if facts is None:
            rows = channel_rows(data, axis)
            bad = int(rows.size - np.count_nonzero(np.isfinite(rows)))
            facts = moments(rows) + (bad, rows.shape[1])
            if first:
                self.known[source[0]] = facts
        mean, var, centred, bad, count = facts
        out = channel_rows(result, axis)
        state = self.states[layer][-1] if state is None else state
        gamma, beta = (fitting(state.get(name), len(mean), usual) for name, usual in (("gamma", 1.0), ("beta", 0.0)))
        used = reveal(centred, mean, var, out, gamma, beta)
        bad_out = int(out.size - np.count_nonzero(np.isfinite(out)))
        return mean, var, count, bad, bad_out, used

    def call(self, layer, event, data, result, before, after):
        """One of several calls in one forward: what ``measure`` says of it, and the state around it."""
        before = self.states[layer][-1] if before is None else before
        mean, var, count, bad, bad_out, used = self.measure(layer, data, result, None, before)
        row = {
            "event": event,
            "n": count,
            "input_bad": bad,
            "output_bad": bad_out,
            "training": after.get("training", -1),
        }
        row.update(zip(CALLED, (mean, var) + tuple(used)))
        for word, state in (("before", before), ("after", after)):
            row.update(
                ("%s_%s" % (name, word), state[name]) for name in ("running_mean", "running_var") if name in state
            )
            row["counter_" + word] = np.nan if state.get("counter") is None else state["counter"]
        return row

    def output(self, event, out):
        self.network_bad[event] = out.size - np.count_nonzero(np.isfinite(out))
        self.loose["output/%d" % event] = sample(out, self.limit)

    def backward(self, event, found):
        data = found.get("input")
        if data is not None:
            self.loose["grad_input/%d" % event] = sample(data, self.limit)
        for layer, kept in self.gradients.items():
            for name in ("gamma", "beta"):
                if found.get(layer + "/" + name) is not None:
                    kept.setdefault("grad_" + name, {})[event] = found[layer + "/" + name]

    def arrays(self):
        measure_waiting([self])
        found = {"network_bad": self.network_bad, "event_seconds": self.seconds}
        for layer, rows in self.states.items():
            found.update(stack_states(layer, rows))
            found.update(stack_forwards(layer, self.forwards[layer], rows[0]))
            for name, by_event in self.gradients[layer].items():
                width = len(next(iter(by_event.values())))
                table = np.full((self.total, width), np.nan)
                for event, value in by_event.items():
                    table[event] = value
                found[layer + "/" + name] = table
        for layer, rows in self.called.items():
            names = set.intersection(*map(set, rows))
            found.update(("calls:%s:%s" % (layer, name), np.array([row[name] for row in rows])) for name in names)
        for layer, (calls, trains) in self.ran.items():
            found.update({"ran:%s:calls" % layer: calls, "ran:%s:trains" % layer: trains})
        found.update(self.loose)
        return found


def measure_waiting(recorders):
    """What ``measure`` says of each small batch that waits, to the bit: a row's sums are its own, whatever stands above
    and below it."""
    alike = {}
    for item in [item for each in recorders for item in each.waiting]:
        alike.setdefault(item[2].shape, []).append(item)
    for each in recorders:
        each.waiting, each.room_for = [], SMALL_IN_ALL
    for (channels, count), items in alike.items():
        rows, out, gamma, beta = (np.concatenate([item[k] for item in items]) for k in (2, 3, 4, 5))
        mean, var, centred = moments(rows)
        used = reveal(centred, mean, var, out, gamma, beta)
        size = channels * count
        bad, bad_out = (size - np.isfinite(each).reshape(len(items), size).sum(axis=1) for each in (rows, out))
        mean, var, *used = (each.reshape(len(items), channels) for each in (mean, var) + used)
        for k, (forwards, event, *_) in enumerate(items):
            forwards[event] = mean[k], var[k], count, int(bad[k]), int(bad_out[k]), tuple(each[k] for each in used)


def stacked(column):
    """Arrays of one shape as the rows of one, and what np.stack makes (or says) of any others."""
    alike = all(type(value) is np.ndarray and value.shape == column[0].shape for value in column)
    return np.array(column) if alike else np.stack(column)


def stack_states(layer, rows):
    found = {}
    for name in STATES:
        column = [row.get(name) for row in rows]
        held = [value for value in column if value is not None]
        if held and len(held) < len(column):
            blank = np.full(held[0].shape, np.nan, dtype=held[0].dtype)
            held = [blank if value is None else value for value in column]
        if held:
            found[layer + "/" + name] = stacked(held)
    for name in SCALARS:
        missing = -1 if name == "training" else np.nan
        values = [row.get(name) for row in rows]
        values = [missing if value is None else value for value in values]
        found[layer + "/" + name] = np.array(values, dtype=np.int8 if name == "training" else np.float64)
    for name in GRAPH:
        if any(name in row for row in rows):
            found[layer + "/" + name] = np.array([row.get(name, np.nan) for row in rows], dtype=np.float64)
    return found


def stack_forwards(layer, rows, state):
    """Rows of the forward events; the width of rows without a forward comes from any that had one, or the state."""
    width = next((len(row[0]) for row in rows if row is not None), len(state.get("running_mean", (0,))))
    blank = np.full(width, np.nan)
    nothing = (blank, blank, -1, -1, -1, (blank, blank, blank))
    rows = [nothing if row is None else row for row in rows]
    names = ("input_mean", "input_var", "n", "input_bad", "output_bad")
    found = {layer + "/" + name: np.array([row[k] for row in rows]) for k, name in enumerate(names)}
    for k, name in enumerate(("used_mean", "used_invstd", "used_residual")):
        found[layer + "/" + name] = np.array([row[5][k] for row in rows])
    return found
