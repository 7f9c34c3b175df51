"""A layer is in another mode than it was left in.

Signature: the training flag changes during an event that should leave it alone (export, reload, a backward), or is not
what set_mode asked for; or an export moves the running statistics, which only a training forward should. The next
forward then normalises with the batch and trains on it, or does not. Stale statistics have the right mode, old values.
Or the exported file is in another mode than the model that was exported; or an existing file has BatchNormalization in
training mode on its way from the input to an output (on a constant it gives the same for every batch, and is left
alone), or a Dropout that drops, wherever it runs. Or a layer that the program froze (eval on it alone,
requires_grad=False) moves its statistics: train() on the whole network undid the one, and the other holds gamma and
beta only. Or freezing by the framework's own switch (trainable=False) put the layer into inference, whatever mode it is
called in. Or a user's own network comes with some layers in training and the others in eval, or a model that was handed
over holds them so. Or a function that was called with the model (a converter, a summary) left layers in another mode,
or frozen ones trainable. In a program that was watched: eval() was called, nobody called train() again and gamma and
beta train on; an evaluation without gradients runs in training mode and moves the statistics; gamma and beta are frozen
and the statistics are not; train() of the whole model undid the eval() of a frozen layer.

What to do: export a deep copy, and set the mode of each frozen layer again after any call that touches the whole model
(train(), export, save). torch's exporter with dynamo=False puts the whole model back into one mode.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from bncheck.diagnosis.rules import applications, handed_over
from bncheck.diagnosis.rules.exported import exports, number_of, rounding_of, runs
from bncheck.diagnosis.rules.freezing import thawed, wholly_frozen
from bncheck.diagnosis.rules.holdings import settings
from bncheck.diagnosis.rules.holdings.words import of_holding
from bncheck.diagnosis.rules.lives import frozen, modes
from bncheck.diagnosis.rules.lives.words import of_life
from bncheck.diagnosis.rules.movement import moved
from bncheck.diagnosis.rules.onnx_files import drops, file_facts, file_name, nodes_of, trains
from bncheck.diagnosis.rules.revealed import sources
from bncheck.diagnosis.rules.wording import names, number, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.life import Holding, Life
from bncheck.scenario import OPS
from bncheck.trace import STATISTICS

CODE = "BN401"
CAUSE = "mode-leak"
EXPLAINS = ("mode", "statistics", "counter", "outputs", "gradients")
# Events that must leave every layer in the mode it is in.
LEAVING = tuple(op.name for op in OPS if not {"mode", "copy"} & set(op.changes))
ADVICE = "export or save a deep copy, and set the mode of this layer again afterwards"
WORDS = {0: "eval", 1: "training"}


def check_cell(cell: CellView) -> Iterator[Finding]:
    yield from applications.found(cell, CODE, CAUSE)
    yield from handed_over.found(cell, CODE, CAUSE, handed_over.modes_mixed)
    for layer in cell.trace.layers if cell.trace is not None else ():
        flipped, moves = flag_leak(cell, layer), export_moves(cell, layer)
        found = flipped or moves
        if found is None:
            continue
        event, quantity, said = found
        if flipped is not None and moves is not None and moves[0] == event:
            said += f", and {moves[2].partition(' ')[2]}"
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="defect",
            title=f"{names(cell.members)}: {said}.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=layer,
            event=event,
            quantity=quantity,
            departs=cell.target,
            departs_from="itself",
            evidence=export_facts(cell, event),
            advice=ADVICE,
        )
    yield from file_in_other_mode(cell)
    yield from file_that_trains(cell)
    yield from not_frozen(cell)
    yield from infers_when_frozen(cell)


def export_facts(cell: CellView, event: int) -> dict[str, Any]:
    """What the export noted: every module whose flag flipped, and what that does to the model's output."""
    notes = next((found for place, found in exports(cell) if place == event), None)
    if notes is None:
        return {}
    flipped = [item for item in notes.get("flipped", ()) if isinstance(item, list | tuple) and len(item) == 3]
    said = ", ".join(f"{item[0]}: {WORDS[bool(item[1])]} to {WORDS[bool(item[2])]}" for item in flipped)
    change = number_of(notes, "output_change")
    return {
        **({"flipped": said} if said else {}),
        **({} if change is None else {"output change": change}),
        "exporter": str(notes.get("exporter")),
        **modes_in_file(notes),
    }


def modes_in_file(notes: Mapping[str, Any]) -> dict[str, str]:
    """What the exported file itself says of its BatchNormalization and Dropout nodes."""
    graph, found = notes.get("graph"), {}
    for key, kind in (("batch_norms", "BatchNormalization"), ("dropouts", "Dropout")):
        nodes = nodes_of(graph, key) if isinstance(graph, Mapping) else []
        if nodes:
            training = sum(node.get("training") is True for node in nodes)
            found[f"{kind} in the file"] = f"{training} of {len(nodes)} in training mode"
    return found


def file_in_other_mode(cell: CellView) -> Iterator[Finding]:
    """The file equals the model in the mode in which it was not exported."""
    for event, notes, export in runs(cell):
        bound = rounding_of(notes)
        as_was, evaluated = number_of(notes, "difference_as_exported"), number_of(notes, "difference_eval")
        if as_was is None or evaluated is None or as_was <= bound or evaluated > bound:
            continue
        asked = str(export.get("asked_training", "default"))
        against = asked in ("TRAINING", "PRESERVE")
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="defect" if against else "hazard",
            title=f"{names(cell.members)}: this file equals your eval model, you exported a train-mode one; the two "
            f"are "
            f"{number(as_was)} apart" + (f", and the export was asked for training={asked}." if against else "."),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer="",
            event=event,
            quantity="output",
            departs=cell.target if against else "",
            departs_from="itself" if against else "",
            evidence={
                "file against eval": evaluated,
                "file against the model as exported": as_was,
                "asked": asked,
                **modes_in_file(export),
            },
            advice="call net.eval() before you export for inference; export with training=PRESERVE to keep the mode",
        )


def file_that_trains(cell: CellView) -> Iterator[Finding]:
    """An existing file whose graph says training: it normalises with the batch, or drops, wherever it runs."""
    facts = file_facts(cell)
    if facts is None:
        return
    norms, dropouts = nodes_of(facts, "batch_norms"), nodes_of(facts, "dropouts")
    training = [str(node.get("name")) for node in norms if trains(node)]
    dropping = [str(node.get("name")) for node in dropouts if drops(node)]
    if not training and not dropping:
        return
    how = "five outputs" if int(facts.get("opset") or 0) < 14 else "training_mode = 1"
    said = [f"{len(training)} of {len(norms)} BatchNormalization nodes in training mode ({how})"] if training else []
    said += [f"{len(dropping)} of {len(dropouts)} Dropout nodes that drop"] if dropping else []
    does = "normalises with whatever batch it is given" if training else "gives another output each time"
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="hazard",
        title=f"{file_name(cell)} has {' and '.join(said)}: it {does}.",
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        layer="",
        event=None,
        quantity="training",
        evidence={"opset": str(facts.get("opset"))}
        | {word: ", ".join(nodes) for word, nodes in (("training", training), ("dropping", dropping)) if nodes},
        advice="export again from net.eval(), with training=EVAL, if the file is for inference",
    )


def not_frozen(cell: CellView) -> Iterator[Finding]:
    """The program froze a layer, and its statistics move: a call on the whole network, or only gamma and beta froze."""
    for found in thawed(cell):
        start = f"{found.layer} in {names(cell.members)} was frozen by {found.way} (event {found.frozen + 1})"
        if found.undone is None:
            how, advice = "which holds gamma and beta only", "call eval() on this very layer as well"
        else:
            op = cell.case.events[found.undone].op
            how = f"and {op} on the whole network (event {found.undone + 1}) switches it back to training"
            advice = "put this layer into eval again after each train() of the whole network, or override its train()"
        times = "1 event" if found.moves == 1 else f"{found.moves} events"
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="hazard",
            title=f"{start}, {how}: its running statistics move in {times} after that.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=found.layer,
            event=found.frozen if found.undone is None else found.undone,
            quantity="running_mean",
            evidence={"frozen by": found.way, "events that moved its statistics": found.moves},
            advice=advice,
        )


def infers_when_frozen(cell: CellView) -> Iterator[Finding]:
    """Freezing put the layer into inference: a training forward normalises with its running statistics."""
    said: set[str] = set()
    for source in sources(cell):
        frozen = wholly_frozen(cell, source.layer, source.event) if source.training and source.weight < 0.01 else None
        if frozen is None or source.layer in said:
            continue
        said.add(source.layer)
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="convention",
            title=(
                f"{source.layer} in {names(cell.members)} runs in inference since it was frozen (event "
                f"{frozen + 1}), also "
                f"where training is asked for: it normalises with its running statistics and leaves them alone."
            ),
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=source.layer,
            event=source.event,
            quantity="running_mean",
            evidence={"weight of the batch": source.weight, "frozen at event": frozen + 1},
            advice="call eval() on this layer where requires_grad=False is all there is, to get the same there",
        )


def flag_leak(cell: CellView, layer: str) -> tuple[int, str, str] | None:
    assert cell.trace is not None
    flags = cell.trace.get(layer, "training")
    if flags is None:
        return None
    for event, record in enumerate(cell.trace.events[: max(len(flags) - 1, 0)]):
        before, after = int(flags[event]), int(flags[event + 1])
        if record.status != "ok" or -1 in (before, after):
            continue
        if record.op in LEAVING and before != after:
            return event, "training", f"{record.op} switches {layer} from {WORDS[before]} to {WORDS[after]}"
        asked = asked_mode(cell, layer, event)
        if asked is not None and after != int(asked):
            return event, "training", f"{layer} is in {WORDS[after]} after set_mode asked for {WORDS[int(asked)]}"
    return None


def asked_mode(cell: CellView, layer: str, event: int) -> bool | None:
    """What set_mode asks this layer for at an event; None when the event is no set_mode, or not for this layer."""
    if event >= len(cell.case.events) or cell.case.events[event].op != "set_mode":
        return None
    arguments = cell.case.events[event].arguments
    if arguments.get("layer") not in (None, layer) or not isinstance(arguments.get("training"), bool):
        return None
    return bool(arguments["training"])


def export_moves(cell: CellView, layer: str) -> tuple[int, str, str] | None:
    assert cell.trace is not None
    for quantity in STATISTICS:
        mask = moved(cell.trace, layer, quantity)
        for event, record in enumerate(cell.trace.events):
            if record.op in ("export_onnx", "run_exported") and record.status == "ok" and mask[event : event + 1].any():
                return event, quantity, f"{record.op} moves {quantity} of {layer}, as {forwards_in(cell, layer, event)}"
    return None


def forwards_in(cell: CellView, layer: str, event: int) -> str:
    """How many training forwards an event made of itself, by the layer's counter."""
    rows = cell.trace.get(layer, "counter") if cell.trace is not None else None
    more = float(rows[event + 1] - rows[event]) if rows is not None and len(rows) > event + 1 else 0.0
    return f"{more:.0f} training forwards would" if more > 1 else "one training forward would"


def check_holding(holding: Holding) -> list[Finding]:
    """Some layers in training mode, and the others in eval mode."""
    return of_holding(holding, CODE, CAUSE, [settings.modes_mixed(holding)])


def check_life(life: Life) -> list[Finding]:
    """Training in eval mode, evaluation in training mode, a freeze that does not hold."""
    return of_life(
        life,
        CODE,
        CAUSE,
        [
            modes.stuck_in_eval(life),
            modes.trains_in_eval(life),
            modes.evaluates_in_training(life),
            modes.predicts_in_training(life),
            frozen.frozen_by_halves(life),
            frozen.without_gradients(life),
            frozen.thawed(life),
            frozen.frozen_too_late(life),
        ],
    )
