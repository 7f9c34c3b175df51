"""Straight Paddle, in dynamic mode: one layer, the user's or nn.BatchNorm, or a layer in a model of the user's."""

from __future__ import annotations

from typing import Any

from bncheck.repro.standalone import own_layer, own_model
from bncheck.repro.standalone.frame import VERSION
from bncheck.repro.standalone.literal import keywords
from bncheck.repro.standalone.own_layer import Made
from bncheck.repro.standalone.steps import Step
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.run_folder.results import TargetResult
from bncheck.scenario import Layer, op_of
from bncheck.trace import Array

NAMES = {"running_mean": "_mean", "running_var": "_variance", "gamma": "weight", "beta": "bias"}
KINDS = {2: "BatchNorm1D", 3: "BatchNorm1D", 4: "BatchNorm2D", 5: "BatchNorm3D"}
FORMATS = {2: ("NCL", "NLC"), 3: ("NCL", "NLC"), 4: ("NCHW", "NHWC"), 5: ("NCDHW", "NDHWC")}


def requirements(target: TargetResult) -> list[str]:
    return [f"paddlepaddle=={target.version}" if VERSION.fullmatch(target.version) else "paddlepaddle"]


def imports(subject: Subject) -> list[str]:
    if subject.target.variant not in ("", "builtin", "plain_input"):
        raise CannotWriteError(f"there is no script for the variant {subject.target.variant!r} of paddle yet")
    return ["import paddle"]


def definitions(subject: Subject) -> list[str]:
    return own_model.source(subject, ()) if own_model.is_whole(subject) else own_layer.source(subject, ())


def made(subject: Subject) -> Made:
    if own_model.is_whole(subject):
        return own_model.made_of(subject)
    layer = own_layer.single(subject)
    found = own_layer.made_of(subject) if own_layer.is_own(subject) else Made(builtin(layer, subject.rank), NAMES)
    if found.turned:
        raise CannotWriteError("the layer has its channels on another axis than the scenario")
    return found


def builtin(layer: Layer, rank: int) -> str:
    """Paddle's momentum is the weight of the old average."""
    if rank not in KINDS:
        raise CannotWriteError("paddle has no layer for so many axes")
    given: dict[str, Any] = {"momentum": 1.0 - layer.batch_weight} if layer.batch_weight is not None else {}
    given |= {"epsilon": layer.eps} if layer.eps is not None else {}
    given |= {} if layer.affine else {"weight_attr": False, "bias_attr": False}
    given |= {"data_format": FORMATS[rank][1]} if layer.axis == -1 and rank > 2 else {}
    return f"paddle.nn.{KINDS[rank]}({layer.channels}, {keywords({**given, **layer.native.get('paddle', {})})})"


def setup(subject: Subject, beside: dict[str, Array]) -> list[str]:
    found = made(subject)
    if own_model.is_whole(subject):
        return [
            'paddle.set_device("cpu")',
            "paddle.seed(0)  # the weights are the function's own",
            f"net = {found.call}",
            "paddle.seed(1)",
            f"{found.holder} = dict(net.named_sublayers(include_self=True))[{own_model.place(subject)!r}]",
        ]
    lines = ['paddle.set_device("cpu")', f"net = {found.call}"]
    for what, value, before in own_layer.initial(subject, beside):
        if what in found.names:
            held = f"net.{found.names[what]}"
            lines += [*before, f"{held}.set_value(paddle.to_tensor({value}).reshape({held}.shape))"]
    return lines


def held(subject: Subject) -> dict[str, str]:
    found = made(subject)
    return {what: f"{found.holder}.{name}.numpy()" for what, name in found.names.items() if what in own_layer.STATES}


def shown(subject: Subject, text: str) -> str:
    return f"{text}.numpy(){f'.reshape(-1)[::{subject.stride}]' if subject.stride > 1 else ''}"


def play(subject: Subject, step: Step, x: str, dys: list[str], when: str) -> list[str]:
    if step.op == "backward":
        return backward(subject, step, dys, when)
    if step.op in ("eval_forward", "no_grad_forward"):
        return [
            "net.eval()" if step.op == "eval_forward" else "net.train()",
            "with paddle.no_grad():",
            f"    out = net(paddle.to_tensor({x}))",
            *output(subject, step, when, "out"),
        ]
    if op_of(step.op).records and op_of(step.op).call:
        lines = ["net.train()"] if step.op == "train_forward" else []
        asks = ["x.stop_gradient = False"] if own_layer.asks_the_input(subject) else []
        lines += [f"x = paddle.to_tensor({x})", *asks, "y = net(x)"]
        lines += ["ys = [y]" if step.tape in ("first", "only", "") else "ys.append(y)"]
        return lines + output(subject, step, when, "y")
    if step.op == "set_mode":
        return ["net.train()" if step.arguments.get("training") else "net.eval()"]
    if step.op == "reload" and not step.arguments and not own_model.is_whole(subject):
        return [
            "import tempfile",
            "",
            'path = tempfile.mkdtemp() + "/state.pdparams"',
            "paddle.save(net.state_dict(), path)",
            f"net = {made(subject).call}",
            "net.set_state_dict(paddle.load(path))",
        ]
    return own_layer.refuse_events(step.op, "paddle")


def output(subject: Subject, step: Step, when: str, name: str) -> list[str]:
    return [f'see("output", {when}, {shown(subject, name)})'] if "output" in step.watched else []


def backward(subject: Subject, step: Step, dys: list[str], when: str) -> list[str]:
    grads = [f"paddle.to_tensor({dy})" if dy else f"paddle.ones_like(ys[{k}])" for k, dy in enumerate(dys)]
    lines = [
        "for held in [*net.parameters(), x]:",
        "    held.clear_gradient(False)",
        f"paddle.autograd.backward(ys, [{', '.join(grads)}], retain_graph=True)",
    ]
    names, holder = made(subject).names, made(subject).holder
    for name, what in (("grad_gamma", "gamma"), ("grad_beta", "beta")):
        if name in step.watched and what in names:
            lines.append(f'see("{name}", {when}, {holder}.{names[what]}.grad.numpy())')
    if "grad_input" in step.watched:
        lines.append(f'see("grad_input", {when}, {shown(subject, "x.grad")})')
    return lines
