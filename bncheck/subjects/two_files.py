"""Two checkpoints side by side: what their normalising layers hold, and whether one is the other folded."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from bncheck.checkpoints.normalisers import plain_name
from bncheck.checkpoints.recognise import Checkpoint, read_checkpoint
from bncheck.checkpoints.tensor import WIDTHS, Tensor
from bncheck.diagnosis.held.likeness import QUANTITIES, Pair, alike, compared
from bncheck.diagnosis.held.matching import Matching, match
from bncheck.diagnosis.held.misplaced import below_zero_in_both
from bncheck.diagnosis.held.naming import name_differences
from bncheck.diagnosis.held.reading import Others, Sides
from bncheck.diagnosis.rules.layer_names import listed, named, together
from bncheck.errors import UsageError
from bncheck.finding import KINDS, Finding
from bncheck.gate.shortfall import Shortfall
from bncheck.life import Holding
from bncheck.report.plain_text import plural
from bncheck.run_folder.answer import Answer, Row
from bncheck.run_folder.folder import create_run_folder
from bncheck.run_folder.results import Results, TargetResult
from bncheck.subjects.checkpoint import span
from bncheck.subjects.conclusion import conclude, results_of, slug_of
from bncheck.subjects.folded import Folded, folded_layers
from bncheck.subjects.sides import AskedDiff, Side, names_of

if TYPE_CHECKING:
    from bncheck.playing.progress import Listener

COLUMNS = ("channels", "running mean", "running variance", "gamma", "beta", "counter", "verdict")
HOW = {
    "name": "Layers were matched by name.",
    "name and weights": "Layers were matched by name, and those of other names by what they hold.",
    "weights": "Layers were matched by what they hold: their names differ.",
    "order": "Layers were matched by order and width: neither names nor weights tell which belongs to which.",
}
OBJECT = "model"  # the format of what a model holds that was built, or handed over
# Bytes of other tensors that are read to say whether they are equal.
MOST_OTHERS = 2**31


def compare_files(asked: AskedDiff, listener: Listener) -> tuple[Path, Results]:
    """Read, compare and write down; (the run folder, what was found)."""
    for word, value in (("--input", asked.inputs), ("--weights", asked.weights), ("--data", asked.data)):
        if value:
            raise UsageError(f"{word} is for models; {asked.a.text} and {asked.b.text} are files.", f"leave out {word}")
    names = names_of(asked.a, asked.b)
    one, two = chosen(asked.a, asked.b)
    answer, findings, missed = side_by_side(one, two, names)
    targets = [target_of(name, each) for name, each in zip(names, (one, two), strict=True)]
    run = create_run_folder(asked.out)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results = results_of(answer, findings, targets, asked.command, created)
    conclude(run, answer, results, asked.formats, listener.say, asked.bar, missed)
    return run, results


def target_of(name: str, checkpoint: Checkpoint) -> TargetResult:
    holding = checkpoint.holding
    said = {"format": holding.format}
    return TargetResult(name=name, slug=slug_of(name), backend=holding.framework, device="", environment=said)


def chosen(a: Side, b: Side) -> tuple[Checkpoint, Checkpoint]:
    """The state of each file that is meant: the one that is named, the only one, or the one at the same place in both.
    UsageError with the names where that does not tell."""
    states = [states_of(side) for side in (a, b)]
    if all(len(each) == 1 for each in states):
        return states[0][0], states[1][0]
    shared = [(x, y) for x in states[0] for y in states[1] if x.path == y.path and len(states[0]) == len(states[1])]
    if len(shared) == 1:
        return shared[0]
    for side, held in zip((a, b), states, strict=True):
        if len(held) > 1:
            choices = " or ".join(f"{side.path}:{each.path}" for each in held)
            raise UsageError(f"{side.path} holds {len(held)} states: which is meant?", f"name it: {choices}")
    raise AssertionError("one of the two holds several")


def states_of(side: Side) -> list[Checkpoint]:
    assert side.path is not None
    found = list(read_checkpoint(side.path))
    if not side.state:
        return found
    named = [each for each in found if each.path == side.state]
    if not named:
        choices = ", ".join(each.path or "(the file itself)" for each in found)
        raise UsageError(f"{side.path} holds no state {side.state!r}.", f"it holds: {choices}")
    return named


def objects_side_by_side(
    one: Holding, two: Holding, names: tuple[str, str]
) -> tuple[Answer, list[Finding], tuple[Shortfall, ...]]:
    """The same of what two models of this process hold."""
    return side_by_side(Checkpoint(holding=one), Checkpoint(holding=two), names)


def side_by_side(
    one: Checkpoint, two: Checkpoint, names: tuple[str, str], played: bool = False, rounded: Collection[str] = ()
) -> tuple[Answer, list[Finding], tuple[Shortfall, ...]]:
    """(the answer, findings, what could not be compared) of two states. ``rounded``: layers of the first that are
    folded into rounded weights of the second, which does not lack them."""
    subject = f"{names[0]} against {names[1]}"
    matching = match(one.holding, two.holding)
    pairs = [compared(a, b) for a, b in matching.pairs]
    folded = folded_layers(one, two, matching)
    matching = replace(matching, only_a=folded.left_a, only_b=folded.left_b)
    sides = Sides(
        a=names[0],
        b=names[1],
        framework_a=one.holding.framework,
        framework_b=two.holding.framework,
        others=None if folded.layers else others(one, two),
        case=slug_of(subject),
    )
    lacking = replace(matching, only_a=tuple(each for each in matching.only_a if each.layer not in rounded))
    findings = [*folded.findings(sides), *name_differences(sides, pairs, lacking)]
    findings.sort(key=lambda found: KINDS.index(found.kind))
    compared_any = bool(pairs or folded.layers)
    missed = () if compared_any else (nothing(one, two, names),)
    answer = Answer(
        verb="diff",
        subject=subject,
        headline=headline(pairs, folded, findings, sides, compared_any),
        columns=COLUMNS,
        rows=tuple(rows(pairs, folded, matching, findings, sides)),
        notes=tuple(notes(one, two, matching, pairs, sides, played)),
    )
    return answer, findings, missed


def others(one: Checkpoint, two: Checkpoint) -> Others | None:
    """How tensors of the same name that are no normaliser's compare. None where there are none, or more than is read
    for that."""
    names = {plain_name(key): key for key in two.holding.others if key in two.tensors}
    shared = [
        (key, names[bare]) for key in one.holding.others if (bare := plain_name(key)) in names and key in one.tensors
    ]
    if not shared or sum(one.tensors[key].size for key, _ in shared) * 8 > MOST_OTHERS:
        return None
    words = {key: how_alike(one.tensors[key], two.tensors[other]) for key, other in shared}
    apart = tuple(key for key, word in words.items() if word == "differs")
    rounded = sum(word == "rounding" for word in words.values())
    return Others(same=len(shared) - len(apart), different=apart, rounded=rounded)


def same_tensor(a: Tensor, b: Tensor) -> bool:
    return how_alike(a, b) != "differs"


def how_alike(a: Tensor, b: Tensor) -> Literal["equal", "rounding", "differs"]:
    """Where both are numbers that bncheck reads; by shape and type alone else (eight bits, four bits)."""
    if a.shape != b.shape:
        return "differs"
    if not {a.dtype, b.dtype} <= WIDTHS.keys():
        return "equal" if a.dtype == b.dtype else "differs"
    one, two = a.read(), b.read()
    if np.array_equal(one, two):
        return "equal"
    if one.dtype.kind not in "fiub" or two.dtype.kind not in "fiub":
        return "differs"
    return "rounding" if alike(one, two, a.dtype, b.dtype).same else "differs"


def nothing(one: Checkpoint, two: Checkpoint, names: tuple[str, str]) -> Shortfall:
    counts = [len(each.holding.layers) for each in (one, two)]
    if not any(counts):
        said = f"neither {names[0]} nor {names[1]} holds BatchNorm"
    elif not all(counts):
        has, lacks = (0, 1) if counts[0] else (1, 0)
        said = f"{names[lacks]} holds no BatchNorm, and its weights are not those of {names[has]} folded"
    else:
        said = f"no layer of {names[0]} belongs to one of {names[1]}: neither names, nor weights, nor widths"
    return Shortfall(
        f"Nothing was compared: {said}", "name two files of one model, or of its export", "nothing was compared"
    )


# --------------------------------------------------------------------------------------------------- in words


def headline(
    pairs: Sequence[Pair], folded: Folded, findings: Sequence[Finding], sides: Sides, compared_any: bool
) -> str:
    if not compared_any:
        return "Nothing was compared."
    grave = [found for found in findings if found.kind != "rounding"]
    if grave:
        more = len(grave) - 1
        return grave[0].title + (f" And {plural(more, 'more finding')}." if more else "")
    rounding = any(found.kind == "rounding" for found in findings)
    count = len(pairs) + len(folded.layers)
    how = "equal up to rounding" if rounding or folded.layers else "equal to the bit"
    open_ones = [each.layer.layer for each in folded.layers if each.fold.second]
    if open_ones:
        how += f", if the weight before {listed(open_ones)} is that of a transposed convolution"
    ahead = [each.layer.layer for each in folded.layers if each.fold.word == "ahead"]
    if ahead:
        how += f", if the convolution behind {listed(ahead)} does not pad"
    words = f"{sides.a} and {sides.b} are {how}: {plural(count, 'BatchNorm layer')}"
    into = "a convolution" if len(folded.layers) == 1 else "convolutions"
    words += f", {len(folded.layers)} of them folded into {into}" if folded.layers else ""
    return words + "."


def how_read(formats: Sequence[str]) -> list[str]:
    """Of files alone: a model's own code ran to build it."""
    if not formats:
        return []
    if len(formats) == 1:
        return [f"The file was read as {formats[0]}, without any framework; nothing in it was executed."]
    kinds = f"Both were read as {formats[0]}" if formats[0] == formats[1] else f"Read as {formats[0]} and {formats[1]}"
    return [f"{kinds}, without any framework; nothing in the files was executed."]


def notes(
    one: Checkpoint, two: Checkpoint, matching: Matching, pairs: Sequence[Pair], sides: Sides, played: bool
) -> list[str]:
    said = [*below_zero_alike(pairs), *([HOW[matching.how]] if pairs else [])]
    if not played:
        said += how_read([each.holding.format for each in (one, two) if each.holding.format != OBJECT])
    elif "onnx" not in (sides.framework_a, sides.framework_b):  # in such a file the mode is a part of the graph
        said += other_modes(pairs, sides)
    if sides.others is not None:
        said.append(of_others(sides.others))
    said += counters_alone(pairs, sides)
    if any(pair.a.eps is None or pair.b.eps is None for pair in pairs):
        said.append("eps and momentum are not compared where a file does not say them: weights alone do not.")
    for each in (one, two):
        said += each.holding.remarks[:10]
    return said


def of_others(others: Others) -> str:
    same, apart = others.same, len(others.different)
    how = f" ({others.rounded} of them up to rounding)" if others.rounded else ""
    how = " up to rounding" if 0 < others.rounded == same else how
    are, differ = ("is" if same == 1 else "are"), ("differs" if apart == 1 else "differ")
    return f"Of the other tensors of the same name {same} {are} equal{how}, {apart} {differ}."


def counters_alone(pairs: Sequence[Pair], sides: Sides) -> Iterable[str]:
    """Counters that one of two files of a framework lacks: no number differs, and something is missing."""
    if sides.framework_a == sides.framework_b:
        for has, lacks, place in ((sides.a, sides.b, "a"), (sides.b, sides.a, "b")):
            both = [(pair.a.counter, pair.b.counter)[:: 1 if place == "a" else -1] for pair in pairs]
            count = sum(mine is not None and theirs is None for mine, theirs in both)
            if count:
                layers = plural(count, "layer")
                yield f"{has} counts the updates of {layers} and {lacks} does not: momentum=None needs it."


def below_zero_alike(pairs: Sequence[Pair]) -> list[str]:
    """Variances below zero that are equal on both sides: no difference, and wrong all the same."""
    equal = [pair for pair in pairs if "running_var" not in pair.differing()]
    return [reading.title for reading in below_zero_in_both(equal)]


def other_modes(pairs: Sequence[Pair], sides: Sides) -> list[str]:
    """Layers of which one side was built in training mode and the other in eval: no output that was played shows it."""
    said = []
    for mine, theirs, training in ((sides.a, sides.b, True), (sides.b, sides.a, False)):
        names = [pair.name for pair in pairs if (pair.a.training, pair.b.training) == (training, not training)]
        if names:
            one = len(names) == 1
            who, is_in = (named(names[0]), "is") if one else (together(names), "are")
            who = who.replace("layer", "Layer", 1) if names[0][:1].isdigit() else who
            said.append(
                f"{who} {is_in} in training mode in {mine} as it was built, and in eval mode in {theirs}. "
                "Outputs were compared in eval."
            )
    return said


def rows(
    pairs: Sequence[Pair], folded: Folded, matching: Matching, findings: Sequence[Finding], sides: Sides
) -> list[Row]:
    found = [row_of(pair, findings) for pair in pairs]
    found += [folded.row(layer, len(COLUMNS)) for layer in folded.layers]
    for name, layers in ((sides.a, matching.only_a), (sides.b, matching.only_b)):
        for layer in layers:
            cells = (str(0 if layer.running_mean is None else layer.running_mean.size), span(layer.running_mean))
            blank = ("",) * (len(COLUMNS) - 3 - len(cells) + 1)
            words = (*cells, span(layer.running_var), *blank, f"only in {name}")
            found.append(Row(layer=layer.layer[:1000], cells=words, mark="hazard"))
    return found


def row_of(pair: Pair, findings: Sequence[Finding]) -> Row:
    own = [found for found in findings if pair.name in {layer for layer, _ in found.places}]
    worst = min(own, key=lambda found: KINDS.index(found.kind), default=None)
    name = pair.a.layer if pair.a.layer == pair.b.layer else f"{pair.a.layer} ↔ {pair.b.layer}"
    size = 0 if pair.a.running_mean is None else pair.a.running_mean.size
    cells = (str(size), *(cell(pair, what) for what in (*QUANTITIES, "counter")), worst.cause if worst else "equal")
    mark = "agrees" if worst is None or worst.kind == "rounding" else worst.kind
    return Row(layer=name[:1000], cells=cells, mark=mark)


def cell(pair: Pair, what: str) -> str:
    found = pair.quantities.get(what)
    if found is None:
        return ""
    if what == "counter":
        return f"{pair.a.counter:g}" if found.same else f"{pair.a.counter:g} / {pair.b.counter:g}"
    words = {
        "equal": "equal",
        "rounding": "rounding",
        "narrowed": f"equal in {found.detail}",
        "missing": f"only in {'B' if found.detail == 'a' else 'A'}",
        "width": "other width",
        "nonfinite": "NaN or Inf",
    }
    return words.get(found.word, f"{found.size:.3g} apart")
