"""Straight PyTorch: nn modules, autograd, nothing else."""

from __future__ import annotations

import re
from typing import Any

from bncheck.report.standalone.frame import VERSION
from bncheck.report.standalone.literal import array_code, identifier, keywords, nested
from bncheck.report.standalone.steps import Step
from bncheck.report.standalone.subject import CannotWriteError, Subject
from bncheck.results import TargetResult
from bncheck.scenario import Layer
from bncheck.trace import Array

MODES = {"train_forward": "train", "no_grad_forward": "train", "checkpointed_forward": "train", "eval_forward": "eval"}
KINDS = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}
FLAT = ("flatten", "dense", "global_avg_pool")
VARIANTS = ("", "builtin", "timed", "functional", "channels_last", "compile", "jit", "onnx", "no_onednn")
CALLED = ("channels_last", "compile", "jit")  # variants in which another function than the network itself is called
CHECKPOINT_WORDS = {"counter": "num_batches_tracked", "gamma": "weight", "beta": "bias"}
EXPORT_MODES = {"true": "TRAINING", "false": "EVAL", "training": "TRAINING", "eval": "EVAL", "preserve": "PRESERVE"}


def requirements(target: TargetResult) -> list[str]:
    version = target.version.partition("+")[0]
    more = ["onnx", "onnxscript", "onnxruntime"] if target.variant == "onnx" else []
    return [f"torch=={version}" if VERSION.fullmatch(version) else "torch", *more]


def imports(subject: Subject) -> list[str]:
    if subject.target.variant not in VARIANTS:
        raise CannotWriteError(f"there is no script for the variant {subject.target.variant!r} of torch yet")
    lines = ["# A CPU build is enough: take PyTorch's CPU wheel index where the default one offers CUDA builds only.",
             "import torch"]  # fmt: skip
    if subject.target.variant == "no_onednn":
        lines += ["import torch.backends.mkldnn", "", "torch.backends.mkldnn.set_flags(False)"]
    threads = subject.target.environment.get("threads")
    if isinstance(threads, int):
        lines += ["", f"torch.set_num_threads({threads})  # as in the run: more of them add in another order"]
    return lines


def setup(subject: Subject, beside: dict[str, Array]) -> list[str]:
    network = subject.case.network
    if network.file:
        raise CannotWriteError("networks from a file have no torch script yet")
    lines = [*own_class(subject), *operator_class(subject), *view_function(subject), *build(subject, beside)]
    return [*lines, f"net.{one_mode(subject)}()"] if one_mode(subject) else lines


def build(subject: Subject, beside: dict[str, Array] | None) -> list[str]:
    """The network with its initial values; without ``beside`` with PyTorch's own, to load a state into."""
    network = subject.case.network
    if network.parts != 1 or not network.input_gradient:
        raise CannotWriteError("layers that take their channels in parts, or a plain input, have no torch script yet")
    names: list[str] = []
    lines: list[str] = []
    rank = subject.rank
    for layer in network.layers:
        name = identifier(layer.name, ("net", "torch", "np", "found", "x", "y", "ys", "X", "DY", *names))
        names.append(name)
        again = getattr(layer, "same_as", None)
        lines.append(f"{name} = {identifier(again) if again else construct(subject, layer, rank)}")
        lines += parameters(subject, layer, name, beside) if beside is not None and not again else []
        rank = 2 if layer.type in FLAT else rank
    lines.append(f"net = {names[0]}" if len(names) == 1 else f"net = torch.nn.Sequential({', '.join(names)})")
    if network.returns:
        inner = next(
            (name for name, each in zip(names, network.layers, strict=True) if each.name == network.returns), ""
        )
        if not inner:
            raise CannotWriteError(f"there is no layer {network.returns[:40]!r} whose output could be read")
        lines += ["inner = {}  # what the layer gives that an eval forward is read at",
                  f"{inner}.register_forward_hook(lambda module, x, out: inner.update(out=out) or None)"]  # fmt: skip
    return [*lines, *placed(subject)]


def operator_class(subject: Subject) -> list[str]:
    """The variant [functional]: the operator with a module's parameters and buffers but without its checks."""
    if not by_operator(subject):
        return []
    return [
        "class FunctionalBatchNorm(torch.nn.modules.batchnorm._BatchNorm):",
        '    """The operator behind the module, without the module\'s checks."""',
        "",
        "    def forward(self, x):",
        "        batch, momentum = self.training or not self.track_running_stats, self.momentum",
        "        if self.training and self.num_batches_tracked is not None:",
        "            self.num_batches_tracked += 1",
        "        if momentum is None:",
        "            momentum = 1.0 / float(self.num_batches_tracked) if self.training else 0.0",
        "        return torch.batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var,",
        "                                batch, momentum, self.eps, torch.backends.cudnn.enabled)",
        "",
        "",
    ]


def view_of(subject: Subject, name: str) -> str:
    """How the batches of an input lie in memory; contiguous where the run does not say."""
    return str(getattr(subject.specs.get(name), "view", "contiguous"))


def view_function(subject: Subject) -> list[str]:
    """``viewed``, where an input does not lie contiguous in memory."""
    if all(view_of(subject, name) == "contiguous" for name in subject.specs):
        return []
    return [
        "def viewed(data, view):",
        '    """The same values, laid out in memory otherwise; what lies between them is NaN."""',
        '    if view == "permuted":',
        "        return data.transpose(1, -1).contiguous().transpose(1, -1)",
        '    if view == "strided":',
        '        wide = data.new_full((*data.shape[:-1], 2 * data.shape[-1] + 1), float("nan"))',
        "        wide[..., 1::2] = data",
        "        return wide[..., 1::2]",
        '    wide = data.new_full((data.shape[0], data.shape[1] + 2, *data.shape[2:]), float("nan"))',
        "    wide[:, 1:-1] = data",
        "    return wide[:, 1:-1]",
        "",
        "",
    ]


def by_operator(subject: Subject) -> bool:
    return subject.target.variant == "functional" and not subject.case.network.custom


def one_mode(subject: Subject) -> str:
    """The mode that every forward sets, so that the script sets it once; "" where they differ."""
    ops = {event.op for event in subject.case.events if "forward" in event.op or event.op == "set_mode"}
    modes = {MODES.get(op, op) for op in ops}
    return modes.pop() if len(modes) == 1 and modes <= {"train", "eval"} else ""


def mode_of(subject: Subject, op: str) -> list[str]:
    return [] if one_mode(subject) else [f"net.{MODES[op]}()"]


def own_class(subject: Subject) -> list[str]:
    """The source of somebody's own layer, as it stands in the file that the scenario names."""
    if not subject.case.network.custom or subject.target.variant == "builtin":
        return []
    if not subject.custom_source:
        raise CannotWriteError("the file of the layer of your own (network.custom) is not here any more")
    copied = subject.custom_source.splitlines()
    return [
        "# ---- the layer under test, copied from the file that the scenario names",
        *copied,
        "# ---- until here",
        "",
    ]


def construct(subject: Subject, layer: Layer, rank: int) -> str:
    options: Any = layer.options
    if layer.type == "batch_norm":
        given: dict[str, Any] = {} if layer.affine else {"affine": False}
        if layer.averaging == "cumulative":
            given["momentum"] = None
        elif layer.batch_weight is not None:
            given["momentum"] = layer.batch_weight
        if layer.eps is not None:
            given["eps"] = layer.eps
        if not layer.track_running_stats:
            given["track_running_stats"] = False
        given.update(layer.native.get("torch", {}))
        kind = "FunctionalBatchNorm" if by_operator(subject) else f"torch.nn.{KINDS[rank]}"
        if subject.case.network.custom and subject.target.variant != "builtin":
            kind = subject.case.network.custom.rpartition(":")[2]
            given = {"affine": layer.affine, **given}
            if not re.fullmatch(r"[A-Za-z_]\w*", kind, re.ASCII):
                raise CannotWriteError("the class of the layer of your own has no plain name")
        return f"{kind}({layer.channels}, {keywords(given)})"
    if layer.type == "flatten":
        return "torch.nn.Flatten()"
    if layer.type == "relu":
        return "torch.nn.ReLU()"
    if layer.type == "global_avg_pool":
        return "torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())"
    shape = subject.inputs[f"param/{layer.name}/weight"].shape
    if layer.type == "dense":
        return f"torch.nn.Linear({shape[1]}, {shape[0]})"
    if layer.type == "conv2d":
        more = f"stride={options.get('stride', 1)!r}, padding={options.get('padding', 0)!r}"
        return f"torch.nn.Conv2d({shape[1]}, {shape[0]}, {shape[2:]}, {more})"
    raise CannotWriteError(f"a layer of type {layer.type} has no torch script yet")


def parameters(subject: Subject, layer: Layer, name: str, beside: dict[str, Array]) -> list[str]:
    """Initial values that the scenario sets and that differ from PyTorch's own."""
    usual = {"gamma": 1, "beta": 0, "running_mean": 0, "running_var": 1}
    words = {"gamma": "weight", "beta": "bias"}
    lines: list[str] = []
    for what in ("gamma", "beta", "running_mean", "running_var", "weight", "bias"):
        array = subject.inputs.get(f"param/{layer.name}/{what}")
        held = what not in ("gamma", "beta") or layer.affine
        held = held and (what not in ("running_mean", "running_var") or recorded(subject, layer, what))
        if array is None or not held:
            continue
        if what in usual and bool((array == usual[what]).all()) and not subject.case.network.custom:
            continue
        value = f"torch.tensor({nested(array)})"
        if array.size > 64:
            variable = f"{name}_{what}"
            lines += array_code(variable, array, None, "param", beside)[1]
            value = f"torch.from_numpy({variable})"
        lines.append(f"{name}.{words.get(what, what)}.data.copy_({value})")
    return lines


def recorded(subject: Subject, layer: Layer, what: str) -> bool:
    """Whether the layer holds these statistics: a layer of somebody's own may have others."""
    trace = subject.trace
    return layer.track_running_stats and (layer.name not in trace.layers or f"{layer.name}/{what}" in trace.arrays)


def placed(subject: Subject) -> list[str]:
    """dtype, device and how the network is run."""
    lines = []
    if subject.case.dtype != "float32":
        lines.append(f"net.to(torch.{subject.case.dtype})")
    if subject.target.device != "cpu":
        lines.append(f"net.to({subject.target.device!r})")
    variant = subject.target.variant
    if variant == "channels_last":
        last = "torch.channels_last_3d" if subject.rank == 5 else "torch.channels_last"
        lines += [
            f"net.to(memory_format={last})",
            f"run = lambda x: net(x.contiguous(memory_format={last}))  # noqa: E731",
        ]
    elif variant == "compile":
        lines.append("run = torch.compile(net, dynamic=False)")
    elif variant == "jit":
        lines.append("run = net = torch.jit.script(net)")
    return lines


def held(subject: Subject) -> dict[str, str]:
    if not subject.layer:
        return {}
    bn = identifier(subject.layer)
    source = subject.custom_source
    names = {"running_mean": "running_mean", "running_var": "running_var", "gamma": "weight", "beta": "bias"}
    if source and "running_mean" not in source:
        names.update(
            running_mean="moving_mean", running_var="moving_var" if 'moving_var"' in source else "moving_variance"
        )
    found = {what: array_of(subject, f"{bn}.{name}") for what, name in names.items()}
    return {**found, "counter": f"int({bn}.num_batches_tracked)"}


def array_of(subject: Subject, text: str) -> str:
    """A tensor as a NumPy array in the input's own layout."""
    moved = ".cpu()" if subject.target.device != "cpu" else ""
    return f"{text}.detach(){moved}{'.float()' if subject.case.dtype == 'bfloat16' else ''}.numpy()"


def last_axis(subject: Subject) -> bool:
    return subject.rank > 2 and any(
        layer.axis == -1 for layer in subject.case.network.layers if layer.type == "batch_norm"
    )


def shown(subject: Subject, text: str) -> str:
    """An output or gradient as the report sampled it, channels where the input has them."""
    if last_axis(subject):
        text = f"{text}.permute(0, {', '.join(map(str, range(2, subject.rank)))}, 1)"
    found = array_of(subject, text)
    return f"{found}.reshape(-1)[::{subject.stride}]" if subject.stride > 1 else found


def tensor(subject: Subject, array: str) -> str:
    more = "" if subject.target.device == "cpu" else f", device={subject.target.device!r}"
    text = f"torch.tensor({array}{more}{', dtype=torch.bfloat16' if subject.case.dtype == 'bfloat16' else ''})"
    if last_axis(subject):
        text += f".permute(0, -1, {', '.join(map(str, range(1, subject.rank - 1)))})"
    return text


def play(subject: Subject, step: Step, x: str, dys: list[str], when: str) -> list[str]:
    run = "run" if subject.target.variant in CALLED else "net"
    given, view = tensor(subject, x), view_of(subject, step.input)
    if view in ("permuted", "strided", "sliced"):
        given = f'viewed({given}, "{view}")'
    if step.op in ("eval_forward", "no_grad_forward"):
        lines = [*mode_of(subject, step.op), "with torch.no_grad():", f"    out = {run}({given})"]
        inner = step.op == "eval_forward" and subject.case.network.returns
        return lines + output(subject, step, when, 'inner["out"]' if inner else "out")
    if step.op in ("train_forward", "forward", "checkpointed_forward"):
        lines = mode_of(subject, "train_forward") if step.op != "forward" else []
        call = f"{run}(x)"
        if step.op == "checkpointed_forward":
            call = f"torch.utils.checkpoint.checkpoint({run}, x, use_reentrant=False)"
            lines = ["import torch.utils.checkpoint", "", *lines]
        lines += [f"x = {given}.requires_grad_()", f"y = {call}"]
        if step.tape in ("first", "next"):
            lines.append("ys = [y]" if step.tape == "first" else "ys.append(y)")
        return lines + output(subject, step, when)
    if step.op == "backward":
        return backward(subject, step, dys, when)
    return state_event(subject, step, x, when)


def state_event(subject: Subject, step: Step, x: str, when: str) -> list[str]:
    """Events that change the network, or look at it from outside, without a forward or backward of their own."""
    which = "net" if "layer" not in step.arguments else identifier(str(step.arguments["layer"]))
    if step.op == "set_mode":
        return [f"{which}.train({bool(step.arguments.get('training'))})"]
    if step.op == "freeze":
        return [f"for parameter in {which}.parameters():", "    parameter.requires_grad = False"]
    if step.op == "draw_graph":
        return ["pass  # a picture of the graph is drawn here in the run"]
    if step.op == "flush":
        if subject.target.device.startswith("cuda"):
            return ["torch.cuda.synchronize()"]
        return ["pass  # nothing to wait for on a CPU"]
    if step.op == "draw_graph":
        return ["pass  # bncheck drew the autograd graph behind the buffers here"]
    if step.op == "reload":
        return reload(subject, step)
    if step.op == "export_onnx":
        return export(subject, step, x)
    if step.op == "run_exported":
        lines = ["import onnxruntime", "",
                 'session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])',
                 f"out = session.run(None, {{session.get_inputs()[0].name: {tensor(subject, x)}.numpy()}})[0]",
                 "out = torch.from_numpy(out)"]  # fmt: skip
        return lines + output(subject, step, when, "out")
    raise CannotWriteError(f"the event {step.op} has no torch script yet")


def reload(subject: Subject, step: Step) -> list[str]:
    """Save the state_dict, build the network anew, load it; ``drop`` leaves states out, as old checkpoints do."""
    dropped = [CHECKPOINT_WORDS.get(str(name), str(name)) for name in step.arguments.get("drop", ())]
    if set(dropped) - {"num_batches_tracked"}:
        raise CannotWriteError("a reload that leaves out more than the counter has no torch script yet")
    strict = bool(step.arguments.get("strict", True))
    kept = "{key: value.clone() for key, value in net.state_dict().items()}"
    if dropped:
        kept = kept[:-1] + f' if key.split(".")[-1] not in {dropped!r}}}'
    load = f"net.load_state_dict(saved, strict={strict})"
    return [f"saved, mode = {kept}, net.training", *build(subject, None), load, "net.train(mode)"]


def export(subject: Subject, step: Step, x: str) -> list[str]:
    """torch.onnx.export of the network as it stands; what it leaves behind is printed, and seen in what follows."""
    asked = step.arguments
    given: list[str] = []
    if str(asked.get("training") or "eval").lower() not in EXPORT_MODES:
        raise CannotWriteError("the export asks for a mode that torch does not have")
    if asked.get("exporter", "default") in ("legacy", "dynamo"):
        given.append(f"dynamo={asked['exporter'] == 'dynamo'}")
    if asked.get("training") is not None:
        mode = EXPORT_MODES.get(
            str(asked["training"]) if isinstance(asked["training"], bool) else asked["training"].lower()
        )
        given.append(f"training=torch.onnx.TrainingMode.{mode}")
    if asked.get("opset") is not None:
        given.append(f"opset_version={int(asked['opset'])}")
    if asked.get("keep"):
        given.append("optimize=False" if asked.get("exporter") == "dynamo" else "do_constant_folding=False")
    flags = '{name or "net": module.training for name, module in net.named_modules()}'
    return ["import tempfile", "", 'exported = tempfile.mkdtemp() + "/model.onnx"',
            f'print("training flags before the export:", {flags})',
            f"torch.onnx.export(net, ({tensor(subject, x)},), {', '.join(['exported', *given])})",
            f'print("training flags after the export: ", {flags})']  # fmt: skip


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
    bn = identifier(subject.layer) if subject.layer else "bn"
    for name, text in (("grad_gamma", f"{bn}.weight.grad"), ("grad_beta", f"{bn}.bias.grad")):
        if name in step.watched:
            lines.append(f'see("{name}", {when}, {array_of(subject, text)})')
    if "grad_input" in step.watched:
        lines.append(f'see("grad_input", {when}, {shown(subject, "x.grad")})')
    return lines
