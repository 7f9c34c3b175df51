"""The events of a program as lines of straight PyTorch."""

from __future__ import annotations

from bncheck.repro.standalone.steps import Step
from bncheck.repro.standalone.subject import L1, CannotWriteError, Subject
from bncheck.repro.torch_script import copies
from bncheck.repro.torch_script.exports import export, run_exported
from bncheck.repro.torch_script.network import build, module_of
from bncheck.repro.torch_script.own import own_name
from bncheck.repro.torch_script.parts import in_parts
from bncheck.repro.torch_script.tensors import array_of, laid_out, shown, tensor
from bncheck.repro.torch_script.variants import recomputing, runs
from bncheck.scenario import op_of
from bncheck.trace import Array

CHECKPOINT_WORDS = {"counter": "num_batches_tracked", "gamma": "weight", "beta": "bias"}


def one_mode(subject: Subject) -> str:
    """The mode that every forward sets, so that the script sets it once; "" where they differ."""
    if subject.case.network.copied:  # a copy is made in the mode of the moment
        return ""
    ops = [op_of(event.op) for event in subject.case.events]
    modes = {op.mode if op.forward else op.name for op in ops if op.forward or op.mode}
    return modes.pop() or "" if len(modes) == 1 and modes <= {"train", "eval"} else ""


def mode_of(subject: Subject, op: str) -> list[str]:
    mode = op_of(op).mode
    return [] if mode is None or one_mode(subject) else [f"net.{mode}()"]


def play(subject: Subject, step: Step, x: str, dys: list[str], when: str) -> list[str]:
    op = op_of(step.op)
    if op.forward:
        return (recorded_forward if op.records else quiet_forward)(subject, step, x, when)
    if step.op == "backward":
        return backward(subject, step, dys, when)
    if step.op == "run_exported":
        return run_exported(subject, x) + output(subject, step, when, "out")
    if step.op == "export_onnx":
        return export(subject, step, x)
    if step.op == "eval_in_batches":
        return in_batches(subject, step, x, when)
    if "copy" in op.changes:
        return copies.play(subject, step, x) + output(subject, step, when, "out")
    return state_event(subject, step)


def quiet_forward(subject: Subject, step: Step, x: str, when: str) -> list[str]:
    given = laid_out(subject, step.input, x)
    lines = [*mode_of(subject, step.op), "with torch.no_grad():", f"    out = {call(subject, given)}"]
    inner = op_of(step.op).mode == "eval" and subject.case.network.returns
    return lines + output(subject, step, when, 'inner["out"]' if inner else "out")


def recorded_forward(subject: Subject, step: Step, x: str, when: str) -> list[str]:
    lines = mode_of(subject, step.op)
    result = call(subject, "x")
    if step.op == "checkpointed_forward":
        # The worker recomputes the network itself, whatever the variant calls.
        result = together(subject, f"torch.utils.checkpoint.checkpoint(net, x{recomputing(subject)})")
        lines = ["import torch.utils.checkpoint", "", *lines]
    plain = subject.target.variant == "plain_input" or not subject.case.network.input_gradient
    asks = "" if plain else ".requires_grad_()"
    lines += [f"x = {laid_out(subject, step.input, x)}{asks}", f"y = {result}"]
    if step.tape in ("first", "next"):
        lines.append("ys = [y]" if step.tape == "first" else "ys.append(y)")
    return lines + output(subject, step, when)


def call(subject: Subject, given: str) -> str:
    return together(subject, f"{runs(subject)}({given})")


def together(subject: Subject, text: str) -> str:
    """With replicas, what one of them raises is raised in all, so that none waits for another."""
    return f"together(lambda: {text})" if subject.case.network.replicas else text


def output(subject: Subject, step: Step, when: str, name: str = "y") -> list[str]:
    return [f'see("output", {when}, {shown(subject, name)})'] if "output" in step.watched else []


def backward(subject: Subject, step: Step, dys: list[str], when: str) -> list[str]:
    keep = ", retain_graph=True" if step.keep else ""
    lines = ["net.zero_grad()", "x.grad = None"] if step.watched else []
    grads = [tensor(subject, dy) if dy else "" for dy in dys]
    if len(grads) == 1:
        lines.append(f"y.backward({grads[0] or 'torch.ones_like(y)'}{keep})")
    else:
        each = ", ".join(grad or f"torch.ones_like(ys[{k}])" for k, grad in enumerate(grads))
        lines.append(f"torch.autograd.backward(ys, [{each}]{keep})")
    bn = module_of(subject, subject.layer) if subject.layer else "bn"
    bn = f"{bn}.inner" if in_parts(subject) else bn
    for name, what in (("grad_gamma", "gamma"), ("grad_beta", "beta")):
        if name in step.watched:
            lines.append(f'see("{name}", {when}, {array_of(subject, f"{bn}.{own_name(subject, what)}.grad")})')
    if "grad_input" in step.watched:
        lines.append(f'see("grad_input", {when}, {shown(subject, "x.grad")})')
    return lines


def in_batches(subject: Subject, step: Step, x: str, when: str) -> list[str]:
    """The first samples in eval, in batches of each size: how far their outputs lie from those in the largest."""
    *sizes, largest = sorted({int(size) for size in step.arguments.get("sizes", ())})
    asked = step.arguments.get("samples")
    samples = min(4, largest) if asked is None else int(asked)
    lines = [
        "net.eval()",
        f"x = {laid_out(subject, step.input, x)}[:{largest}]",
        "with torch.no_grad():",
        f"    full = net(x)[:{samples}].double()",
        f"    for size in {sizes}:",
        f"        pieces = [net(x[k : k + size]) for k in range(0, {samples}, size)]",
        f"        gap = (torch.cat(pieces)[:{samples}].double() - full).abs().reshape({samples}, -1)",
    ]
    if L1 in step.watched:
        lines.append(f'        see("{L1}", {when} + f" in batches of {{size}}", float(gap.sum(1).mean()))')
    return lines


def state_event(subject: Subject, step: Step) -> list[str]:
    """Events that change the network, or look at it from outside, without a forward or backward of their own."""
    which = module_of(subject, str(step.arguments["layer"])) if "layer" in step.arguments else "net"
    if step.op == "set_mode":
        return [f"{which}.train({bool(step.arguments.get('training'))})"]
    if step.op == "freeze":
        return [f"for parameter in {which}.parameters():", "    parameter.requires_grad = False"]
    if step.op == "draw_graph":
        return ["pass  # bncheck drew the autograd graph behind the buffers here"]
    if step.op == "flush":
        if subject.target.device.startswith("cuda"):
            return ["torch.cuda.synchronize()"]
        return ["pass  # nothing to wait for on a CPU"]
    if step.op == "reload":
        return reload(subject, step)
    raise CannotWriteError(f"the event {step.op} has no torch script yet")


def reload(subject: Subject, step: Step) -> list[str]:
    """Save the state_dict, build the network anew, load it; ``drop`` leaves states out, as old checkpoints do.

    What is left out keeps the value that the network is built with: PyTorch's own for the counter, the scenario's for
    the others.
    """
    dropped = [CHECKPOINT_WORDS.get(str(name), str(name)) for name in step.arguments.get("drop", ())]
    again: dict[str, Array] | None = (
        {} if set(dropped) - {"num_batches_tracked"} or subject.case.network.model else None
    )
    strict = bool(step.arguments.get("strict", True))
    kept = "{key: value.clone() for key, value in net.state_dict().items()}"
    if dropped:
        kept = kept[:-1] + f' if key.split(".")[-1] not in {dropped!r}}}'
    load = f"net.load_state_dict(saved, strict={strict})"
    return [f"saved, mode = {kept}, net.training", *build(subject, again), load, "net.train(mode)"]
