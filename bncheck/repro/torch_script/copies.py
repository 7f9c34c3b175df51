"""A network with a copy of itself (network.copied) in a PyTorch script: ``second`` beside ``net``."""

from __future__ import annotations

from bncheck.repro.standalone.steps import Step
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.repro.torch_script.tensors import tensor
from bncheck.scenario import op_of
from bncheck.worker.torch_side.copies import DECAY, WORDS

MADE = {
    "deepcopy": ["second = copy.deepcopy(net)"],
    "state_dict": ["second = copy.deepcopy(net)", "second.load_state_dict(net.state_dict())"],
    "assign": ["second = copy.deepcopy(net)", "second.load_state_dict(net.state_dict(), assign=True)"],
    "export": ["second = None  # exported below"],
    "ema_parameters": ["second = copy.deepcopy(net)"],
    "averaged": ["second = torch.optim.swa_utils.AveragedModel(net)"],
    "averaged_buffers": ["second = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)"],
}


def way_of(subject: Subject) -> str:
    way = subject.case.network.copied or ""
    if way and way not in MADE:
        raise CannotWriteError(f"there is no script for a copy made by {way[:40]!r} yet")
    return way


def imports(subject: Subject) -> list[str]:
    if way_of(subject) == "export" and not any(
        "copy" in op_of(r.op).changes and r.status != "unsupported" for r in subject.trace.events
    ):
        return []  # before 2.1 there is none
    more = {"export": ["import torch.export"], "averaged": ["import torch.optim.swa_utils"]}
    more["averaged_buffers"] = more["averaged"]
    return more.get(way_of(subject), ["import copy"] if way_of(subject) else [])


def made(subject: Subject) -> list[str]:
    return MADE[way_of(subject)] if way_of(subject) else []


def play(subject: Subject, step: Step, x: str) -> list[str]:
    if step.op == "update_copy":
        return updated(subject, x)
    lines = []
    if way_of(subject) == "export":  # stays in the mode it was exported in
        earlier = zip(subject.case.events[: step.event], subject.trace.events, strict=False)
        if any(event.op == "update_copy" and record.status == "ok" for event, record in earlier):
            return ["with torch.no_grad():", f"    out = second({tensor(subject, x)})"]
        lines += ["if second is None:", *(f"    {line}" for line in updated(subject, x))]
    else:
        lines.append(f"second.train({step.op == 'train_copy'})")
    return [*lines, "with torch.no_grad():", f"    out = second({tensor(subject, x)})"]


def updated(subject: Subject, x: str) -> list[str]:
    way = way_of(subject)
    if way == "export":
        return [f"second = torch.export.export(net, ({tensor(subject, x)},)).module()"]
    if way in ("averaged", "averaged_buffers"):
        return ["second.update_parameters(net)"]
    if way == "ema_parameters":
        return [
            "with torch.no_grad():  # the parameters alone, as hand-written teachers have it",
            "    for held, new in zip(second.parameters(), net.parameters()):",
            f"        held.mul_({DECAY}).add_((1 - {DECAY}) * new)",
        ]
    return made(subject)


def held(subject: Subject) -> dict[str, str]:
    """State of the copy of the layer → expression. Before an export it is what the export would be made of."""
    layer = subject.layer.partition("@")[0]
    names = [each.name for each in subject.case.network.layers]
    path = f"{layer}." if subject.case.network.model else "" if len(names) == 1 else f"{names.index(layer)}."
    path = f"module.{path}" if way_of(subject) in ("averaged", "averaged_buffers") else path
    which = "(net if second is None else second)" if way_of(subject) == "export" else "second"
    return {what: f"{which}.state_dict()[{path + word!r}]" for what, word in WORDS.items()}


def is_copy(subject: Subject) -> bool:
    return subject.layer.endswith("@copy")
