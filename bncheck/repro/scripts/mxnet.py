"""Straight MXNet: gluon blocks and autograd. State is read after a wait, because MXNet runs asynchronously."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bncheck.repro.standalone import own_layer, own_model
from bncheck.repro.standalone.frame import VERSION
from bncheck.repro.standalone.literal import LITERAL, array_code, identifier, keywords, nested
from bncheck.repro.standalone.steps import Step
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.run_folder.results import TargetResult
from bncheck.scenario import Layer, op_of
from bncheck.trace import Array

# Names that a script gives a meaning itself.
OURS = (
    "net",
    "mx",
    "np",
    "sys",
    "x",
    "y",
    "ys",
    "X",
    "DY",
    "EXPECTED",
    "SOURCE",
    "TOLERANCE",
    "REFUSED",
    "beside",
    "found",
    "refused",
    "see",
    "refuse",
    "look",
    "number",
    "some",
    "gaps",
    "compare",
    "out",
    "inner",
    "training",
    "taped",
    "layer",
    "context",
    "problems",
    "turn",
    "number_of",
)


def requirements(target: TargetResult) -> list[str]:
    name = "mxnet" if target.device == "cpu" else "mxnet-cu112"
    return [f"{name}=={target.version}" if VERSION.fullmatch(target.version) else name]


def imports(subject: Subject) -> list[str]:
    if subject.target.variant == "unwaited":
        raise CannotWriteError(
            "what is read without waiting depends on how far the engine is, and no two runs give the same figures: "
            "read the statistics right after backward, call mx.nd.waitall(), read them again, and compare"
        )
    if subject.target.variant not in ("", "hybrid", "raw", "builtin", "plain_input"):
        raise CannotWriteError(f"there is no script for the variant {subject.target.variant!r} of mxnet yet")
    return ["import mxnet as mx", *(["", "mx.npx.set_np()  # as in the run"] if modern(subject) else [])]


def modern(subject: Subject) -> bool:
    """MXNet 2: Gluon takes arrays of mx.np."""
    return subject.target.version.partition(".")[0] == "2"


def arrays(subject: Subject) -> str:
    return "mx.np" if modern(subject) else "mx.nd"


def setup(subject: Subject, beside: dict[str, Array]) -> list[str]:
    network = subject.case.network
    if network.file:
        raise CannotWriteError("networks from a file have no mxnet script yet")
    if network.model:
        return whole(subject)
    if own_layer.is_own(subject):
        return [*context(subject), *own(subject, beside)]
    lines, called = context(subject), names_of(subject)
    for layer in network.layers:
        name = called[layer.name]
        lines += one_layer(subject, layer, name, beside)
        if subject.target.variant == "raw" and layer.type == "batch_norm":
            called[layer.name] = f"{name}_operator"
            lines += operator(subject, layer, name, called[layer.name])
    if as_it_is(subject):
        lines.append("training = False  # the mode that a forward keeps to")
    if len(called) == 1:
        return [*lines, f"net = {called.popitem()[1]}"]
    return [*lines, *chained(subject, called)]


def definitions(subject: Subject) -> list[str]:
    return own_model.source(subject, OURS) if own_model.is_whole(subject) else own_layer.source(subject, OURS)


def whole(subject: Subject) -> list[str]:
    """The user's model as the run made it: what waits for a batch has one before anything is played."""
    if modern(subject):
        raise CannotWriteError("models of your own have no script of MXNet 2 yet")
    if subject.target.variant not in ("", "plain_input"):
        raise CannotWriteError(f"models of your own have no script of mxnet[{subject.target.variant}] yet")
    lines = [
        "mx.random.seed(0)  # the weights are the function's own",
        f"net = {own_model.made_of(subject).call}",
        "net.initialize()",
        "net.hybridize(active=False)",
        "if any(each.shape is None or 0 in each.shape or -1 in each.shape for each in net.collect_params().values()):",
        f"    net({array(subject, own_model.first_batch(subject))})",
        "mx.random.seed(1)",
        f"{own_model.LAYER} = net",
    ]
    words = own_model.place(subject).split(".") if own_model.place(subject) else []
    lines += [f"{own_model.LAYER} = {own_model.LAYER}._children[{word!r}]" for word in words]
    lines += ["training = False  # the mode that a forward keeps to"] if as_it_is(subject) else []
    return [
        *lines,
        "",
        "",
        "def number_of(held):",
        "    return (held.data() if isinstance(held, mx.gluon.Parameter) else held).asnumpy()",
        "",
    ]


def own(subject: Subject, beside: dict[str, Array]) -> list[str]:
    """The user's layer as the run made it."""
    own_layer.single(subject)
    found = own_layer.made_of(subject)
    if found.turned:
        raise CannotWriteError("the layer has its channels on another axis than the scenario")
    lines = [f"net = {found.call}", f"net.initialize({place(subject)})"]
    for what, value, before in own_layer.initial(subject, beside):
        if what in found.names:
            held = f"net.{found.names[what]}"
            lines += [*before, f"{held}.set_data({arrays(subject)}.array(np.reshape({value}, {held}.shape)))"]
    return lines


def one_layer(subject: Subject, layer: Layer, name: str, beside: dict[str, Array]) -> list[str]:
    lines = [f"{name} = {construct(subject, layer)}"]
    if layer.type == "global_avg_pool":
        lines.append(f"{name}.add(mx.gluon.nn.GlobalAvgPool2D(), mx.gluon.nn.Flatten())")
    lines.append(f"{name}.initialize({place(subject)})")
    lines += [f"{name}.cast({subject.case.dtype!r})"] if subject.case.dtype != "float32" else []
    lines += parameters(subject, layer, name, beside)
    return [*lines, f"{name}.hybridize()"] if subject.target.variant == "hybrid" else lines


def chained(subject: Subject, called: Mapping[str, str]) -> list[str]:
    """``net``, which calls one layer after the other."""
    returned = called.get(subject.case.network.returns or "")
    return [
        *(["inner = {}  # what the layer gives that an eval forward is read at"] if returned else []),
        "",
        "",
        "def net(x):",
        f"    for layer in ({', '.join(called.values())}):",
        "        x = layer(x)",
        *([f"        if layer is {returned}:", '            inner["out"] = x'] if returned else []),
        "    return x",
        "",
    ]


def as_it_is(subject: Subject) -> bool:
    """True where a forward takes the mode that an earlier event left."""
    return any(event.op == "forward" for event in subject.case.events)


def context(subject: Subject) -> list[str]:
    number = subject.target.device.partition(":")[2] or "0"
    if subject.target.device == "cpu":
        return []
    if not number.isdigit():
        raise CannotWriteError(f"the device {subject.target.device[:20]!r} is none of mxnet's")
    return [f"context = mx.gpu({number})"]


def place(subject: Subject) -> str:
    return "" if subject.target.device == "cpu" else "ctx=context"


def given(layer: Layer) -> dict[str, Any]:
    """Keywords of gluon.nn.BatchNorm; MXNet's momentum is the weight of the old average."""
    found: dict[str, Any] = {} if layer.axis == 1 else {"axis": layer.axis}
    if layer.batch_weight is not None:
        found["momentum"] = 1.0 - layer.batch_weight
    if layer.eps is not None:
        found["epsilon"] = layer.eps
    if not layer.affine:
        found.update(center=False, scale=False)
    return {**found, **layer.native.get("mxnet", {})}


def construct(subject: Subject, layer: Layer) -> str:
    options: Any = layer.options
    if layer.type == "batch_norm":
        return f"mx.gluon.nn.BatchNorm({keywords({**given(layer), 'in_channels': layer.channels})})"
    if layer.type == "global_avg_pool":
        return "mx.gluon.nn.HybridSequential()"
    if layer.type == "flatten":
        return "mx.gluon.nn.Flatten()"
    if layer.type == "relu":
        return 'mx.gluon.nn.Activation("relu")'
    if layer.type in ("dense", "conv2d"):
        shape = subject.inputs[f"param/{layer.name}/weight"].shape
        if layer.type == "dense":
            return f"mx.gluon.nn.Dense({shape[0]}, in_units={shape[1]}, flatten=False)"
        more = f"strides={options.get('stride', 1)!r}, padding={options.get('padding', 0)!r}"
        return f"mx.gluon.nn.Conv2D({shape[0]}, {shape[2:]}, {more}, in_channels={shape[1]})"
    raise CannotWriteError(f"a layer of type {layer.type} has no mxnet script yet")


def parameters(subject: Subject, layer: Layer, name: str, beside: dict[str, Array]) -> list[str]:
    """Initial values that the scenario sets and that differ from MXNet's own."""
    usual = {"gamma": 1, "beta": 0, "running_mean": 0, "running_var": 1}
    lines: list[str] = []
    for what in ("gamma", "beta", "running_mean", "running_var", "weight", "bias"):
        array = subject.inputs.get(f"param/{layer.name}/{what}")
        if array is None or (what in usual and bool((array == usual[what]).all())):
            continue
        if array.size > LITERAL:
            value = f"{name}_{what}"
            lines += array_code(value, array, None, "param", beside)[1]
        else:
            value = nested(array)
        lines.append(f"{name}.{what}.set_data({arrays(subject)}.array({value}, dtype={name}.{what}.dtype))")
    return lines


def operator(subject: Subject, layer: Layer, bn: str, name: str) -> list[str]:
    """nd.BatchNorm itself, on the gluon layer's parameters: its own defaults differ (eps 1e-3, gamma fixed)."""
    asked = given(layer)
    more = {"axis": layer.axis}
    more |= {"momentum": asked["momentum"]} if "momentum" in asked else {}
    more |= {"eps": asked["epsilon"]} if "epsilon" in asked else {}
    more |= {"fix_gamma": False} if layer.eps is not None or layer.batch_weight is not None else {}
    held = ", ".join(f"{bn}.{what}.data()" for what in ("gamma", "beta", "running_mean", "running_var"))
    call = "mx.npx.batch_norm" if modern(subject) else "mx.nd.BatchNorm"
    return [
        "",
        "",
        f"def {name}(x):",
        '    """The operator itself, on the parameters of a gluon layer."""',
        f"    return {call}(x, {held}, {keywords(more)})",
        "",
    ]


def before_look(subject: Subject) -> list[str]:
    return ["mx.nd.waitall()"]


def held(subject: Subject) -> dict[str, str]:
    if not subject.layer:
        return {}
    if own_model.is_whole(subject):
        names = own_model.made_of(subject).names
        return {what: f"number_of({own_model.LAYER}.{name})" for what, name in names.items()}
    if own_layer.is_own(subject):
        names = own_layer.made_of(subject).names
        return {what: f"net.{name}.data().asnumpy()" for what, name in names.items() if what in own_layer.STATES}
    bn = identifier(subject.layer, OURS)
    return {what: f"{bn}.{what}.data().asnumpy()" for what in ("running_mean", "running_var", "gamma", "beta")}


def shown(subject: Subject, text: str) -> str:
    return f"{text}.asnumpy(){f'.reshape(-1)[::{subject.stride}]' if subject.stride > 1 else ''}"


def array(subject: Subject, text: str) -> str:
    more = "" if subject.target.device == "cpu" else ", ctx=context"
    more += "" if subject.case.dtype == "float32" else f", dtype={subject.case.dtype!r}"
    return f"{arrays(subject)}.array({text}{more})"


def play(subject: Subject, step: Step, x: str, dys: list[str], when: str) -> list[str]:
    left = as_it_is(subject)
    if step.op == "eval_forward":
        seen = 'inner["out"]' if subject.case.network.returns else "out"
        lines = [f"out = net({array(subject, x)})  # outside record(): inference"]
        return [*lines, *(["training = False"] if left else []), *output(subject, step, when, seen)]
    if step.op == "no_grad_forward":
        return [
            *(["training = True"] if left else []),
            "with mx.autograd.pause(train_mode=True):",
            f"    out = net({array(subject, x)})",
            *output(subject, step, when, "out"),
        ]
    if op_of(step.op).records and op_of(step.op).call:  # MXNet has no recomputation
        mode = "train_mode=training" if step.op == "forward" else ""
        plain = subject.target.variant == "plain_input" or not subject.case.network.input_gradient
        asks = [] if plain else ["x.attach_grad()"]
        lines = [f"x = {array(subject, x)}", *asks, f"with mx.autograd.record({mode}):", "    y = net(x)"]
        if left and step.op != "forward":
            lines.append("training = True")
        lines += ["taped = training  # a backward takes the mode of its forward"] if left else []
        if step.guarded:
            lines.append("y.wait_to_read()  # an error of this forward is raised here")
        if step.tape in ("first", "next"):
            lines.append("ys = [y]" if step.tape == "first" else "ys.append(y)")
        return lines + output(subject, step, when, "y")
    if step.op == "set_mode" and "layer" not in step.arguments:
        return (
            [f"training = {bool(step.arguments.get('training'))}"] if left else ["pass  # every forward sets its mode"]
        )
    if step.op == "backward":
        return backward(subject, step, dys, when)
    if step.op == "flush":
        return ["mx.nd.waitall()"]
    if step.op == "reload" and not step.arguments and not own_model.is_whole(subject):
        return reload(subject)
    raise CannotWriteError(f"the event {step.op} has no mxnet script yet")


def reload(subject: Subject) -> list[str]:
    """What every block holds into a file, and back. The blocks stay: their constructors draw nothing that stays."""
    names = ["net"] if own_layer.is_own(subject) else list(names_of(subject).values())
    return [
        "import tempfile",
        "",
        "mx.nd.waitall()",
        'path = tempfile.mkdtemp() + "/state.params"',
        f"for block in ({', '.join(names)},):",
        "    if list(block.collect_params()):",
        "        block.save_parameters(path)",
        "        block.load_parameters(path)",
    ]


def names_of(subject: Subject) -> dict[str, str]:
    """Layer → the name of its block in the script."""
    called = dict[str, str]()
    for layer in subject.case.network.layers:
        called[layer.name] = identifier(layer.name, (*OURS, *called.values()))
    return called


def output(subject: Subject, step: Step, when: str, name: str) -> list[str]:
    return [f'see("output", {when}, {shown(subject, name)})'] if "output" in step.watched else []


def backward(subject: Subject, step: Step, dys: list[str], when: str) -> list[str]:
    # The recording kept every graph; what is kept is seen only where the program goes back through it again.
    keep = ", retain_graph=True" if step.keep else ""
    keep += ", train_mode=taped" if as_it_is(subject) else ""
    grads = [array(subject, dy) if dy else "" for dy in dys]
    if len(grads) == 1:
        head = grads[0] or (f"{arrays(subject)}.ones_like(y)" if keep else "")
        lines = [f"y.backward({head}{keep})" if head else "y.backward()"]
    else:
        each = ", ".join(grad or f"{arrays(subject)}.ones_like(ys[{k}])" for k, grad in enumerate(grads))
        lines = [f"mx.autograd.backward(ys, [{each}]{keep})"]
    lines += ["mx.nd.waitall()"] if step.guarded else []
    bn = identifier(subject.layer, OURS) if subject.layer else "bn"
    whole_ = own_model.is_whole(subject)
    own_names = None
    if whole_ or own_layer.is_own(subject):
        own_names = (own_model.made_of(subject) if whole_ else own_layer.made_of(subject)).names
    for name, what in (("grad_gamma", "gamma"), ("grad_beta", "beta")):
        holder = own_model.LAYER if whole_ else "net"
        place_ = f"{bn}.{what}" if own_names is None else f"{holder}.{own_names.get(what)}"
        if name in step.watched and (own_names is None or what in own_names):
            lines.append(f'see("{name}", {when}, {place_}.grad().asnumpy())')
    if "grad_input" in step.watched:
        lines.append(f'see("grad_input", {when}, {shown(subject, "x.grad")})')
    return lines
