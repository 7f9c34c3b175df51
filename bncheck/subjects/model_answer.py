"""The answer about a model: a headline, a row for each normalising layer, and notes on how it was played."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bncheck.diagnosis.inside import remarks_inside
from bncheck.diagnosis.kept import kept_in_eval
from bncheck.diagnosis.lived.innocence import NAMES
from bncheck.diagnosis.rules.nonfinite.birthplace import in_words
from bncheck.finding import KINDS, Finding
from bncheck.life import LayerLife
from bncheck.report.plain_text import plural
from bncheck.run_folder.answer import MOST, Answer, Row
from bncheck.subjects.played import gaps
from bncheck.subjects.seen import Seen, none_ran, not_run, unplayed, unregistered, untold

COLUMNS = ("kind", "mode", "n", "moved", "gap", "verdict")
MARKS = {"in order": "agrees"}


def answer_of(subject: str, seen: Seen, findings: Sequence[Finding]) -> Answer:
    return Answer(
        verb="check",
        subject=subject,
        headline=headline(seen, findings),
        columns=COLUMNS,
        rows=tuple(row_of(layer, seen, findings) for layer in [*seen.said["layers"], *unregistered(seen)][:MOST]),
        notes=tuple(notes(seen)),
    )


def headline(seen: Seen, findings: Sequence[Finding]) -> str:
    count = len(seen.holding.layers)
    if not count and not unregistered(seen):
        if seen.said.get("sealed"):
            return f"None of its layers can be seen: it is {seen.said['sealed'][0]}."
        return "It has no layer that is known to normalise by running statistics."
    telling = [item for item in findings if item.kind != "rounding"]
    if telling:
        more, first = len(telling) - 1, leading(telling)
        return first.title.rstrip(".") + (f" (and {plural(more, 'more finding')})" if more else "") + "."
    steps = int(seen.said.get("steps") or 0)
    phases = [] if unplayed(seen, "eval") else ["in eval"]
    phases += [f"through {plural(steps, 'training step')}"] if steps else []
    played = f", played {' and '.join(phases)}" if phases else " as far as its forward came"
    if seen.life is None:
        held = "it holds" if count == 1 else "they hold"
        return f"{plural(count, 'normalising layer')}, nothing wrong with what {held}."
    if none_ran(seen):
        return f"{plural(count, 'normalising layer')}, none of which was seen to run."
    idle = len(not_run(seen))
    among = f" with the {count - idle} that {'was' if count - idle == 1 else 'were'} seen to run" if idle else ""
    return f"{plural(count, 'normalising layer')}, nothing wrong{among}{played}{left_open(seen)}."


def left_open(seen: Seen) -> str:
    """How many layers of the user's are not known to compute what the framework's does."""
    strange = sum(len(each.names) for each in seen.verdicts if each.strange)
    unheld = sum(len(each.names) for each in seen.verdicts if each.remark) + len(untold(seen))
    parts = [f"{strange} unlike the built-in layer by no known rule"] if strange else []
    parts += [f"{unheld} not compared with the built-in layer"] if unheld else []
    return f"; {' and '.join(parts)}" if parts else ""


def leading(telling: Sequence[Finding]) -> Finding:
    """The gravest; of those about one layer that replay gave a share, the one with the largest."""
    first = telling[0]
    if first.explained is None:
        return first
    like = [item for item in telling if (item.kind, item.layer) == (first.kind, first.layer)]
    return max(like, key=lambda item: item.explained or 0.0)


def row_of(layer: Mapping[str, Any], seen: Seen, findings: Sequence[Finding]) -> Row:
    name = str(layer["name"])
    own = [item for item in findings if name in {place for place, _ in item.places}]
    worst = min(own, key=lambda item: KINDS.index(item.kind), default=None)
    lived = next((each for each in seen.life.layers if each.name == name), None) if seen.life is not None else None
    mode = {True: "train", False: "eval", None: "fixed" if layer.get("fixed") else "per call"}[layer["training"]]
    said = worst.cause if worst is not None else as_it_ran(name, seen) if lived is not None else "not seen"
    cells = (str(layer["kind"]), mode, n_of(lived), moved_of(lived, layer), gap_of(lived, seen), said)
    return Row(layer=name[:1000], cells=cells, mark=worst.kind if worst is not None else MARKS.get(said, ""))


def as_it_ran(name: str, seen: Seen) -> str:
    """Of a layer about which nothing was found: a class of the user's that nothing was compared with is not "in
    order"."""
    known = {name: verdict for verdict in seen.verdicts for name in verdict.names}
    if name in known:
        return "unlike" if known[name].strange else "not compared" if known[name].remark else "in order"
    return "not compared" if name in {each for each, _, _ in untold(seen)} else "in order"


def n_of(lived: LayerLife | None) -> str:
    sizes = [size for span in lived.spans for size in span.n if size >= 0] if lived is not None else []
    return "–" if not sizes else f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,}–{max(sizes):,}"


def moved_of(lived: LayerLife | None, layer: Mapping[str, Any]) -> str:
    """How many of the forwards moved the statistics."""
    if lived is None or not layer["tracks"]:
        return "–"
    looked = [span for span in lived.spans if span.moved is not None]
    return f"{sum(span.moved or 0 for span in looked)} of {lived.forwards}" if looked else "–"


def gap_of(lived: LayerLife | None, seen: Seen) -> str:
    """How far the batch's own statistics lie from the running ones that eval uses, in standard deviations."""
    gap = gaps(lived) if lived is not None and seen.said["input"]["from"] == "data" else math.nan
    return "–" if not np.isfinite(gap) else f"{gap:.2g} σ"


def notes(seen: Seen) -> list[str]:
    given = seen.said["input"]
    if given["from"] == "none":
        return [str(remark) for remark in (*seen.said.get("remarks", ()), *seen.said.get("shown", ()))]
    shapes = " and ".join(f"{each['dtype']} {'×'.join(map(str, each['shape']))}" for each in given["shapes"])
    words = {"data": "Played on your data", "input": "Played on made-up numbers", "made": "Played on made-up numbers"}
    said = [f"{words[given['from']]}: {shapes}."]
    if given["from"] == "made":
        said.append("No shape was given; this one fits its first layer. Yours: --input SHAPE, or --data batch.npz.")
    if given["from"] != "data":
        said.append("Made-up numbers do not show whether the statistics suit your data: give a batch with --data.")
    if seen.said.get("steps"):
        said.append(
            f"Training was {plural(int(seen.said['steps']), 'step')} of plain gradient descent (learning rate 0.001) "
            "on the mean of the squares of its outputs, in a process of its own: nothing of yours was changed."
        )
    said += kept_in_eval(seen.life)
    loaded = seen.said.get("weights")
    if loaded:
        where = f", found in {loaded['inside']!r}" if loaded["inside"] else ""
        bare = loaded["prefix"]
        where += f"; {bare[1:]!r} was {'taken from' if bare.startswith('-') else 'put before'} its keys" if bare else ""
        said.append(f"{loaded['loaded']} of {loaded['keys']} keys were loaded from {Path(loaded['path']).name}{where}.")
    born = in_words(seen.said.get("born"))
    said += [f"Of the first NaN or Inf: {born[0].lower()}{born[1:]}"] if born else []
    said += [str(remark) for remark in (*seen.said.get("remarks", ()), *seen.said.get("shown", ()))]
    said += remarks_inside(seen.verdicts, untold(seen), NAMES[seen.holding.framework])
    return said + (list(seen.life.remarks) if seen.life is not None else [])
