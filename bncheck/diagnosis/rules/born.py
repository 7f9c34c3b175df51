"""Where something that is not finite, or a variance that cannot be one, begins in a cell, and what follows from it.

One walk through a trace, event by event and layer by layer. A layer whose input and state are sound and whose output
is not has made it; one that got it in only passes it on. So each cause is listed once, with its consequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bncheck.diagnosis.rules.held_states import State, states_of
from bncheck.diagnosis.rules.movement import holds_training
from bncheck.diagnosis.rules.roundoff import LARGEST, arithmetic_dtype
from bncheck.evidence import CellView
from bncheck.scenario_files.inputs import make_inputs
from bncheck.trace import STATISTICS, Array, Trace

NETWORK, GRADIENTS = "the network's output", "the gradients"
# A normalised value is seldom beyond 10; eval that reaches it on average divides by a variance that is none.
FAR = 10.0


@dataclass(frozen=True)
class Birth:
    """``why``: held (before any event), input (the batch as the scenario gives it), cast, before (in front of the first
    BatchNorm layer), between (two of them), single, empty, overflow, constant (no eps, no variance), unheld (statistics
    that do not exist yet), event (one that runs no batch), arithmetic, gain (eval divides by a variance of 0),
    network (no BatchNorm layer has it) or backward.

    ``layer`` is where it was first seen ("" for the network), ``quantity`` a state, "input", "output" or "gradients";
    ``channels`` those of a state; ``shows`` the events in which that layer makes something not finite of a finite
    input because of it; ``follows`` names all else that is not finite by it.
    """

    why: str
    event: int
    layer: str
    quantity: str
    word: str = ""  # NaN, Inf or below zero
    channels: tuple[int, ...] = ()
    of: int = 0
    value: float = float("nan")
    shows: tuple[int, ...] = ()
    follows: tuple[str, ...] = ()


@dataclass
class Walk:
    """What is known so far: births by number, which of them each layer's state carries, which each event met."""

    cell: CellView
    trace: Trace
    states: dict[str, dict[str, State]]
    found: list[Birth] = field(default_factory=list)
    carried: dict[str, list[int]] = field(default_factory=dict)  # layer → births that its state is spoilt by
    met: dict[int, list[int]] = field(default_factory=dict)  # event → births that reached an output in it
    shows: dict[int, list[int]] = field(default_factory=dict)
    follows: dict[int, dict[str, None]] = field(default_factory=dict)

    def add(self, birth: Birth) -> int:
        self.found.append(birth)
        return len(self.found) - 1

    def pass_on(self, sources: list[int], what: str) -> None:
        for number in sources:
            own = self.found[number]
            if what != f"{own.quantity} of {own.layer}":
                self.follows.setdefault(number, {})[what] = None

    def count(self, layer: str, name: str, event: int) -> int:
        """``n``, ``input_bad`` or ``output_bad`` of an event; -1 where the layer was not seen in it."""
        rows = self.trace.get(layer, name)
        return int(rows[event]) if rows is not None and event < len(rows) else -1

    # -- states -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        for layer, held in self.states.items():
            base = layer.partition("@")[0]
            for name, state in held.items():
                if not state.spoilt[0].any():
                    continue
                if base != layer and self.carried.get(base):  # a copy, or another replica, that was made of it
                    self.carried[layer] = self.carried[base]
                    self.pass_on(self.carried[base], f"{name} of {layer}")
                    continue
                self.carried.setdefault(layer, []).append(self.add(birth_of(state, layer, name, -1, "held")))

    def trace_back(self, layer: str, event: int) -> None:
        """What became unsound in the layer's state by this event, and by what."""
        for name, state in self.states[layer].items():
            new = state.spoilt[event + 1] & ~state.spoilt[event]
            if not new.any():
                continue
            sources = self.sources_of(layer, event, new)
            if not sources:
                sources = [self.add(birth_of(state, layer, name, event, self.why(layer, name, event, new)))]
            self.pass_on(sources, f"{name} of {layer}")
            known = self.carried.setdefault(layer, [])
            known += [number for number in sources if number not in known]

    def sources_of(self, layer: str, event: int, new: Array) -> list[int]:
        bad = [t for t in fed_by(self.trace, layer, event) if self.count(layer, "input_bad", t) > 0]
        if bad:
            return self.met.get(bad[-1], [])
        carried = self.carried.get(layer) or self.carried.get(layer.partition("@")[0], [])
        places = set(map(int, np.flatnonzero(new)))
        return [n for n in carried if not self.found[n].channels or places & set(self.found[n].channels)]

    def why(self, layer: str, name: str, event: int, new: Array) -> str:
        fed = fed_by(self.trace, layer, event)
        if not fed:
            return "event"
        counts = [self.count(layer, "n", t) for t in fed]
        if min(counts) < 2:
            return "single" if 1 in counts else "empty"
        state = self.states[layer][name].rows[event + 1]
        if np.isfinite(state[new]).all():  # below zero
            return "arithmetic"
        return "overflow" if any(overflows(self.cell, layer, t) for t in fed) else "arithmetic"

    # -- forwards and backwards -------------------------------------------------------------------------------

    def forward(self, event: int) -> None:
        seen = [layer for layer in self.states if self.count(layer, "n", event) >= 0]
        made = [
            layer
            for layer in seen
            if self.count(layer, "output_bad", event) > 0 and self.count(layer, "input_bad", event) <= 0
        ]
        got = [layer for layer in seen if self.count(layer, "input_bad", event) > 0]
        met: list[int] = []
        for layer in made:
            if not self.makers(layer, event):
                self.trace_back(layer, event)
            sources = self.makers(layer, event) or [self.output(layer, event)]
            for number in sources:
                if self.found[number].layer == layer:
                    self.shows.setdefault(number, []).append(event)
                else:
                    self.pass_on([number], f"output of {layer}")
            met += sources
        if got and not met:
            met = [self.entering(got[0], event, seen)]
        for layer in got:
            self.pass_on(met, f"output of {layer}")
        self.met[event] = met
        bad = self.trace.arrays.get("network_bad")
        if bad is not None and bad[event] > 0:
            self.ended(event, seen)

    def makers(self, layer: str, event: int) -> list[int]:
        """Births in the layer's state that can have spoilt this output; running statistics hardly do in training."""
        held = self.carried.get(layer, [])
        alone = self.count(layer, "n", event) == 1 or overflows(self.cell, layer, event)
        if held and alone and holds_training(self.trace, layer, event):
            return [n for n in held if self.found[n].event == event or self.found[n].quantity in ("gamma", "beta")]
        return held

    def output(self, layer: str, event: int) -> int:
        n = self.count(layer, "n", event)
        statistics = [self.trace.get(layer, name) for name in STATISTICS]
        if any(rows is not None and np.isnan(rows[event]).all() for rows in statistics):
            why = "unheld"
        elif n == 1:
            why = "single"
        elif overflows(self.cell, layer, event):
            why = "overflow"
        else:
            why = "constant" if divides_by_zero(self.cell, layer, event) else "arithmetic"
        return self.add(Birth(why=why, event=event, layer=layer, quantity="output"))

    def entering(self, layer: str, event: int, seen: list[str]) -> int:
        """It came into the first layer that has it: with the batch, or out of the layers in front."""
        why, value = how_it_came(self.cell, event, layer, seen)
        known = [n for n, birth in enumerate(self.found) if (birth.why, birth.layer) == (why, layer)]
        number = (
            known[0]
            if known and why != "input"
            else self.add(Birth(why=why, event=event, layer=layer, quantity="input", value=value))
        )
        self.shows.setdefault(number, []).append(event)
        return number

    def ended(self, event: int, seen: list[str]) -> None:
        """The network's output is not finite: by what a layer made or got, else by what is not seen."""
        sources = self.met[event]
        if not sources and not seen:  # the forward of a copy, of a file, or in several batches: no layer is looked at
            sources = [number for held in self.carried.values() for number in held]
        if sources:
            self.pass_on(sources, NETWORK)
            return
        known = next((number for number, birth in enumerate(self.found) if birth.why == "network"), None)
        if known is None:
            why, value = how_it_came(self.cell, event, "", seen)
            known = self.add(
                Birth(
                    why=why if why in ("input", "cast") else "network",
                    event=event,
                    layer="",
                    quantity="output",
                    value=value,
                )
            )
        self.shows.setdefault(known, []).append(event)
        self.met[event] = [known]

    def backward(self, event: int) -> None:
        if not bad_gradients(self.trace, event):
            return
        last = next((t for t in range(event, -1, -1) if self.met.get(t)), None)
        sources = self.met[last] if last is not None else [n for held in self.carried.values() for n in held]
        if sources:
            self.pass_on(sources, GRADIENTS)
        elif not any(birth.why == "backward" for birth in self.found):
            self.add(Birth(why="backward", event=event, layer="", quantity="gradients"))

    def result(self) -> tuple[Birth, ...]:
        return tuple(
            replace(birth, shows=tuple(self.shows.get(number, ())), follows=tuple(self.follows.get(number, ())))
            for number, birth in enumerate(self.found)
        )


def fed_by(trace: Trace, layer: str, event: int) -> list[int]:
    """The forwards whose batches an event takes in: its own, or for a backward (and for a flush, which waits for one)
    those in training since the backward before it, or the same ones once more; none for any other event."""
    counts = trace.get(layer, "n")
    if counts is None or event >= len(counts):
        return []
    if counts[event] >= 0:
        return [event]
    found: list[int] = []
    for t in range(event - 1, -1, -1) if trace.events[event].op in ("backward", "flush") else ():
        if found and trace.events[t].op == "backward":
            break
        if counts[t] >= 0 and holds_training(trace, layer, t) is not False:
            found.append(t)
    return found[::-1]


def births(cell: CellView) -> tuple[Birth, ...]:
    """Every cause of something not finite, or of a variance that cannot be one, in the order of events."""
    if cell.trace is None:
        return ()
    trace = cell.trace
    walk = Walk(cell, trace, {layer: dict(states_of(cell, layer)) for layer in trace.layers})
    walk.start()
    turning = odd_events(trace, walk.states)
    for event in turning:
        walk.forward(event)
        for layer in walk.states:
            walk.trace_back(layer, event)
        if trace.events[event].op == "backward":
            walk.backward(event)
    return (*walk.result(), *gains(walk))


def odd_events(trace: Trace, states: dict[str, dict[str, State]]) -> list[int]:
    """Events that change what is unsound, or in which something not finite was seen."""
    total = len(trace.events)
    odd = np.zeros(total, dtype=bool)
    for layer, held in states.items():
        for state in held.values():
            odd |= (state.spoilt[1:] & ~state.spoilt[:-1]).any(axis=1)
        for name in ("input_bad", "output_bad"):
            rows = trace.get(layer, name)
            odd |= rows > 0 if rows is not None else False
    bad = trace.arrays.get("network_bad")
    odd |= bad > 0 if bad is not None else False
    backward = [event.op == "backward" and bad_gradients(trace, t) for t, event in enumerate(trace.events)]
    odd |= np.array(backward, dtype=bool)
    return [int(event) for event in np.flatnonzero(odd)]


def bad_gradients(trace: Trace, event: int) -> bool:
    """A whole row of NaN in a layer's gradients is how one that does not exist is recorded."""
    if trace.events[event].status != "ok":
        return False
    loose = trace.arrays.get(f"grad_input/{event}")
    if loose is not None and not np.isfinite(loose).all():
        return True
    rows = [trace.get(layer, name) for layer in trace.layers for name in ("grad_gamma", "grad_beta")]
    return any(row is not None and not np.isfinite(row[event]).all() and not np.isnan(row[event]).all() for row in rows)


# ----------------------------------------------------------------------------------------------------- states


def birth_of(state: State, layer: str, name: str, event: int, why: str) -> Birth:
    before = state.spoilt[event] if event >= 0 else np.zeros_like(state.spoilt[0])
    places = np.flatnonzero(state.spoilt[event + 1] & ~before)
    value = float(state.rows[event + 1, places[0]])
    word = "NaN" if np.isnan(value) else "Inf" if np.isinf(value) else "below zero"
    return Birth(
        why=why,
        event=event,
        layer=layer,
        quantity=name,
        word=word,
        channels=tuple(map(int, places)),
        of=state.rows.shape[1],
        value=value,
    )


def gains(walk: Walk) -> Iterator[Birth]:
    """Variances of 0 by which an eval forward divides data that vary: 1/sqrt(eps) is a gain of 316. (One that is small
    beside eps is often what the data have: honest random batches reach ten deviations of it.)

    Judged by what the output reveals. A channel that is constant in eval too comes to no harm and is left out.
    """
    trace = walk.trace
    for layer, held in walk.states.items():
        names = ("input_mean", "input_var", "used_invstd", "eps")
        mean, var, invstd, eps = (trace.get(layer, name) for name in names)
        if "running_var" not in held or mean is None or var is None or invstd is None or eps is None:
            continue
        variance, centre = held["running_var"].rows[:-1], held.get("running_mean", held["running_var"]).rows[:-1]
        if variance.shape != mean.shape or centre.shape != mean.shape:
            continue
        inference = [holds_training(trace, layer, t) is False for t in range(len(mean))]
        size = np.sqrt(var + (mean - centre) ** 2) * np.abs(invstd)
        room = np.asarray(eps[:-1])[:, None]
        small = (variance == 0) & (np.abs(invstd) * np.sqrt(room) > 0.9)
        hit = small & (size > FAR) & (var > 0) & np.array(inference)[:, None]
        if hit.any():
            event = int(np.argmax(hit.any(axis=1)))
            places = np.flatnonzero(hit[event])
            # Since when all of them are: the last event before which one of them was not.
            since: Array = np.flatnonzero((variance[: event + 1, places] != 0).any(axis=1))
            yield Birth(
                why="gain",
                event=int(since[-1]) if since.size else -1,
                layer=layer,
                quantity="running_var",
                word="zero",
                channels=tuple(map(int, places)),
                of=mean.shape[1],
                value=0.0,
                shows=(event,),
            )


# ------------------------------------------------------------------------------------------------------ input


def how_it_came(cell: CellView, event: int, layer: str, seen: Sequence[str]) -> tuple[str, float]:
    """("input", "cast", "before" or "between", the batch's largest value) of a forward whose input is not finite at
    ``layer`` ("" for the network's end); ``seen`` are the layers that this forward ran through."""
    first = "before" if not seen or seen[0] == layer else "between"
    given = cell.case.events[event] if event < len(cell.case.events) else None
    spec = cell.case.inputs.get(given.input) if given is not None else None
    if given is None or spec is None:
        return first, float("nan")
    if spec.poison:
        return "input", float("nan")
    batches = make_inputs(cell.case)[f"x/{given.input}"]
    batch = np.asarray(batches[given.batch if given.batch < len(batches) else 0], dtype=np.float64)
    largest = float(np.abs(batch).max(initial=0.0))
    if largest > LARGEST.get(cell.case.dtype, LARGEST["float64"]):
        return "cast", largest
    return ("input" if first == "before" and nothing_in_front(cell, layer) else first), largest


def nothing_in_front(cell: CellView, layer: str) -> bool:
    """Whether the layer gets the batch as it is: no weights and no sums stand between them."""
    names = [item.name for item in cell.case.network.layers]
    if layer not in names:
        return False
    return all(item.type in ("flatten", "relu") for item in cell.case.network.layers[: names.index(layer)])


def divides_by_zero(cell: CellView, layer: str, event: int) -> bool:
    """No eps, and a channel without variance: in the batch, or in the state that eval normalises with."""
    assert cell.trace is not None
    training = holds_training(cell.trace, layer, event) is not False
    rows = cell.trace.get(layer, "input_var" if training else "running_var")
    eps = cell.trace.get(layer, "eps")
    asked = next((item.eps for item in cell.case.network.layers if item.name == layer), None)
    own = float(eps[event]) if eps is not None and np.isfinite(eps[event]) else asked
    return rows is not None and own is not None and bool((np.asarray(rows[event], np.float64) + own <= 0).any())


def overflows(cell: CellView, layer: str, event: int) -> bool:
    """Whether the sum of squares of this finite batch leaves the range of the arithmetic."""
    assert cell.trace is not None
    rows = [cell.trace.get(layer, name) for name in ("input_mean", "input_var", "n")]
    if rows[0] is None or rows[1] is None or rows[2] is None or not rows[0][event].size:
        return False
    size = (rows[0][event] ** 2 + rows[1][event]) * max(int(rows[2][event]), 1)
    dtype = arithmetic_dtype(cell, f"{layer}/running_var")
    return not bool((size < LARGEST.get(dtype, LARGEST["float64"])).all())
