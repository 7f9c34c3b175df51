"""When a running statistic stops being finite: after which forward, on what data, and does it heal?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bncheck.evidence import CellView
from bncheck.rules.movement import STATISTICS, holds_training
from bncheck.trace import Array


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

    @property
    def evidence(self) -> dict[str, int | str]:
        shows = {} if self.surfaced is None else {"shows first in": f"{self.surfaced_op} (event {self.surfaced + 1})"}
        born = {"born in": f"event {self.event + 1}"} if self.event >= 0 else {}
        later = {"later forwards": self.later_clean, "of them not finite": self.later_bad}
        return {**born, **shows, "channels": self.channels, **later}

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
    """The first statistic of each layer that stops being finite and does not heal."""
    if cell.trace is None:
        return
    for layer in cell.trace.layers:
        found = [item for quantity in STATISTICS if (item := poisoning(cell, layer, quantity)) is not None]
        if found:
            yield min(found, key=lambda item: (item.event, item.infinite))


def poisoning(cell: CellView, layer: str, quantity: str) -> Poisoning | None:
    assert cell.trace is not None
    trace, rows = cell.trace, cell.trace.get(layer, quantity)
    counts, bad = trace.get(layer, "n"), trace.get(layer, "input_bad")
    if rows is None or not rows.size or counts is None or bad is None:
        return None
    rows = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)
    if not_held_yet(cell, layer, rows[0]):
        return None
    lost = ~np.isfinite(rows)
    lasting = lost & lost[-1]  # lost at the end too: NaN that heals is not remembered
    hit = lasting.any(axis=1)
    if not hit.any():
        return None
    event = int(np.argmax(hit)) - 1
    limit = min(event, len(counts) - 1)
    trained = [t for t in range(limit + 1) if counts[t] >= 0 and holds_training(trace, layer, t)]
    forward = trained[-1] if trained and event >= 0 else None
    later = [t for t in range(event + 1, len(counts)) if counts[t] > 0 and bad[t] == 0]
    out = trace.get(layer, "output_bad")
    shown = [t for t in later if out is not None and out[t] > 0]
    place = int(np.argmax(lasting[event + 1]))
    return Poisoning(
        layer, quantity, event, forward, int(counts[forward]) if forward is not None else -1,
        int(bad[forward]) if forward is not None else 0, bool(np.isinf(rows[event + 1, place])),
        int(lasting[event + 1].sum()), len(later), len(shown),
        bool(forward is not None and out is not None and out[forward] == 0), shown[0] if shown else None,
        trace.events[shown[0]].op if shown and shown[0] < len(trace.events) else "",
    )  # fmt: skip


def not_held_yet(cell: CellView, layer: str, row: Array) -> bool:
    """A row of NaN only, though the scenario asked for no NaN: that is how a state that does not exist is recorded."""
    asked = next((item.initial for item in cell.case.network.layers if item.name == layer), {})
    nan_asked = any(np.isnan(np.asarray(value, dtype=np.float64)).any() for value in asked.values())
    return bool(row.size and np.isnan(row).all()) and not nan_asked
