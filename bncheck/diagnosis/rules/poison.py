"""When a running statistic stops being finite: after which forward, on what data, and does it heal?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bncheck.diagnosis.rules.born import Birth, births, fed_by
from bncheck.diagnosis.rules.held_states import held_from
from bncheck.evidence import CellView
from bncheck.finding import NONFINITE
from bncheck.trace import STATISTICS

SHOWN = 4  # places that evidence names


@dataclass(frozen=True)
class Poisoning:
    """A statistic of one layer that is NaN or Inf from ``event`` on (−1: from the start) to the end.

    ``forward`` is the training forward whose batch it took in, ``n`` and ``input_bad`` that batch's; ``later_bad``
    counts forwards on clean input after it whose output is not finite, ``later_clean`` all forwards on clean input.
    """

    layer: str
    quantity: str
    event: int
    forward: int | None
    n: int
    input_bad: int
    infinite: bool
    channels: int
    later_clean: int
    later_bad: int
    born_finite: bool = False  # the layer's output in ``forward`` was finite: the damage does not show yet
    surfaced: int | None = None  # the first later event on clean input whose output is not finite
    surfaced_op: str = ""
    follows: tuple[str, ...] = ()  # what else is not finite because of it

    @property
    def evidence(self) -> dict[str, int | str]:
        shows = {} if self.surfaced is None else {"shows first in": f"{self.surfaced_op} (event {self.surfaced + 1})"}
        born = {"born in": f"event {self.event + 1}"} if self.event >= 0 else {}
        later = {"later forwards": self.later_clean, "of them not finite": self.later_bad}
        also = listed({self.layer}, self.follows)
        return {**born, **shows, "channels": self.channels, **later, NONFINITE: self.word, **also}

    @property
    def word(self) -> str:
        return "Inf" if self.infinite else "NaN"

    @property
    def aftermath(self) -> str:
        """What became of it, as the end of a sentence."""
        if not self.later_clean:
            return "and stays so"
        if self.born_finite and self.surfaced is not None:
            return (
                f"while the output of that very forward is finite; it shows in the next {self.surfaced_op} "
                f"(event {self.surfaced + 1}): {self.afterwards}"
            )
        return f"and stays so: {self.afterwards}"

    @property
    def afterwards(self) -> str:
        if self.later_clean == 1:
            return f"the one later forward on clean data is {'not ' if self.later_bad else ''}finite"
        verb = "is" if self.later_bad == 1 else "are"
        return f"{self.later_bad} of the {self.later_clean} later forwards on clean data {verb} not finite"


def poisonings(cell: CellView) -> Iterator[Poisoning]:
    """The first statistic of each layer that stops being finite and does not heal, by a cause of its own: what a layer
    only got from another one is listed with that one."""
    if cell.trace is None:
        return
    found: list[Poisoning] = []
    for layer in cell.trace.layers:
        here = [item for quantity in STATISTICS if (item := poisoning(cell, layer, quantity)) is not None]
        found += [min(here, key=lambda item: (item.event, item.infinite))] if here else []
    known = births(cell) if found else ()
    for first in found:
        own = born_here(known, first)
        if own is not None:
            yield replace(first, follows=own.follows)


def born_here(known: Iterable[Birth], item: Poisoning) -> Birth | None:
    """The cause that began at this very layer and reached the statistic."""
    where = f"{item.quantity} of {item.layer}"
    return next(
        (b for b in known if b.layer == item.layer and (b.quantity == item.quantity or where in b.follows)), None
    )


def listed(layers: Collection[str], follows: Sequence[str]) -> dict[str, str]:
    """Consequences outside these layers as one line of evidence: "bn2 (output, running_mean), the gradients"."""
    places: dict[str, list[str]] = {}
    for item in follows:
        quantity, _, where = item.rpartition(" of ")
        places.setdefault(where if quantity else item, []).extend([quantity] if quantity else [])
    said = [f"{where} ({', '.join(held)})" if held else where for where, held in places.items() if where not in layers]
    if not said:
        return {}
    more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return {"also not finite": ", ".join(said[:SHOWN]) + more}


def poisoning(cell: CellView, layer: str, quantity: str) -> Poisoning | None:
    assert cell.trace is not None
    trace, rows = cell.trace, cell.trace.get(layer, quantity)
    counts, bad = trace.get(layer, "n"), trace.get(layer, "input_bad")
    if rows is None or not rows.size or counts is None or bad is None:
        return None
    rows = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)
    lost = ~np.isfinite(rows)
    lasting = lost & lost[-1]  # lost at the end too: NaN that heals is not remembered
    hit = lasting.any(axis=1)
    if not hit.any() or not held_from(cell, layer, quantity, rows)[0]:
        return None
    event = int(np.argmax(hit)) - 1
    fed = fed_by(trace, layer, event) if event >= 0 else []
    # Of several batches that one backward took in, the one that can have done it.
    forward = next((t for t in fed if bad[t] > 0 or counts[t] < 2), fed[-1] if fed else None)
    later = [t for t in range(event + 1, len(counts)) if counts[t] > 0 and bad[t] == 0]
    out = trace.get(layer, "output_bad")
    shown = [t for t in later if out is not None and out[t] > 0]
    place = int(np.argmax(lasting[event + 1]))
    return Poisoning(
        layer=layer,
        quantity=quantity,
        event=event,
        forward=forward,
        n=int(counts[forward]) if forward is not None else -1,
        input_bad=int(bad[forward]) if forward is not None else 0,
        infinite=bool(np.isinf(rows[event + 1, place])),
        channels=int(lasting[event + 1].sum()),
        later_clean=len(later),
        later_bad=len(shown),
        born_finite=bool(forward is not None and out is not None and out[forward] == 0),
        surfaced=shown[0] if shown else None,
        surfaced_op=trace.events[shown[0]].op if shown and shown[0] < len(trace.events) else "",
    )
