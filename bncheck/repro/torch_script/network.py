"""The network of a PyTorch script: its layers with their initial values, dtype, device, and the way it is run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bncheck.repro.spares import called, is_made
from bncheck.repro.standalone.literal import LITERAL, array_code, identifier, keywords, nested
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.repro.torch_script.own import OURS, own_name, own_words, reached_inside, taken_by
from bncheck.repro.torch_script.parts import adapted, in_parts, layout
from bncheck.repro.torch_script.variants import running, since
from bncheck.scenario import Layer, layer_type_of
from bncheck.trace import Array

KINDS = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}
USUAL = {"gamma": 1, "beta": 0, "running_mean": 0, "running_var": 1}  # the values that PyTorch starts from


def build(subject: Subject, beside: dict[str, Array] | None) -> list[str]:
    """The network with its initial values; without ``beside`` with PyTorch's own, to load a state into."""
    network = subject.case.network
    if network.model:
        return [*whole(subject), *placed(subject)]
    names = names_of(subject)
    lines: list[str] = []
    rank = subject.rank
    for layer in network.layers:
        name, again = names[layer.name], layer.same_as
        lines.append(f"{name} = {names[again] if again else construct(subject, layer, rank)}")
        lines += layout(subject, layer, name) if layer.type == "batch_norm" else []
        lines += parameters(subject, layer, name, beside) if beside is not None and not again else []
        lines += [f"{name} = torch.jit.script({name})"] if subject.target.variant == "jit" and not again else []
        rank = 2 if layer_type_of(layer.type).flattens else rank
    return [*lines, *chained(subject, names), *placed(subject)]


def chained(subject: Subject, names: Mapping[str, str]) -> list[str]:
    """``net``, and a look at the layer whose output an eval forward gives."""
    returns, each = subject.case.network.returns, list(names.values())
    lines = looked_at(subject, names)
    if returns and returns not in names:
        raise CannotWriteError(f"there is no layer {returns[:40]!r} whose output could be read")
    if returns:
        lines.append("inner = {}  # what the layer gives that an eval forward is read at")
    if returns and subject.target.variant == "jit":  # scripted layers take no hooks
        lines += [
            "",
            "",
            "class Keep(torch.nn.Module):",
            "    def forward(self, x):",
            '        inner["out"] = x',
            "        return x",
            "",
            "",
        ]
        each.insert(each.index(names[returns]) + 1, "Keep()")
    elif returns:
        lines.append(
            f"{names[returns]}.register_forward_hook(lambda module, x, out, inner=inner: inner.update(out=out) or None)"
        )
    net = each[0] if len(each) == 1 else f"torch.nn.Sequential({', '.join(each)})"
    return [*lines, f"net = {net}"]


def looked_at(subject: Subject, names: Mapping[str, str]) -> list[str]:
    """Hooks as the run had them: a compiler does not fuse a layer that is looked at with its neighbours."""
    if subject.target.variant != "compile" or len(names) < 2:
        return []
    norms = [names[layer.name] for layer in subject.case.network.layers if layer.type == "batch_norm"]
    keep = "register_forward_hook(lambda module, x, out, seen=seen: seen.update({}=(x[0], out)) or None)"
    return ["seen = {}", *(f"{name}.{keep.format(name)}" for name in norms)]


def whole(subject: Subject) -> list[str]:
    """A network that a user's function builds: initialised in float32 from the worker's seed, then converted."""
    network = subject.case.network
    name = (network.model or "").rpartition(":")[2]
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise CannotWriteError("the function that builds the network has no plain name")
    made = f"{called(name)}({keywords(dict(network.arguments))})"
    if as_it_stands(subject):  # or a function by another road: lambda, partial
        made = f"copy.deepcopy({called(name)}) if isinstance({called(name)}, torch.nn.Module) else {made}"
    lines = ["torch.manual_seed(0)  # the weights are the function's own", f"net = {made}"]
    if subject.layer:
        lines.append(f"{module_of(subject, subject.layer)} = dict(net.named_modules())[{subject.layer!r}]")
    return lines


def as_it_stands(subject: Subject) -> bool:
    """Whether the run's network may be a model that the file holds, of which each case got a copy."""
    network = subject.case.network
    return bool(network.model and subject.custom_source) and not is_made(
        subject.custom_source, (network.model or "").rpartition(":")[2]
    )


def module_of(subject: Subject, layer: str) -> str:
    """The script's name for a layer of the trace: ``bn@1`` and ``bn@copy`` are ``bn`` elsewhere."""
    name = layer.partition("@")[0]
    return names_of(subject).get(name) or identifier(name, OURS)


def names_of(subject: Subject) -> dict[str, str]:
    """Layer → its name in the script."""
    found: dict[str, str] = {}
    for layer in subject.case.network.layers:
        found[layer.name] = identifier(layer.name, (*OURS, *found.values()))
    return found


def by_operator(subject: Subject) -> bool:
    return subject.target.variant == "functional" and not subject.case.network.custom


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


def construct(subject: Subject, layer: Layer, rank: int) -> str:
    options: Any = layer.options
    if layer.type == "batch_norm":
        return batch_norm(subject, layer, rank)
    if layer.type == "flatten":
        return flatten(subject)
    if layer.type == "relu":
        return "torch.nn.ReLU()"
    if layer.type == "global_avg_pool":
        return f"torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), {flatten(subject)})"
    shape = subject.inputs[f"param/{layer.name}/weight"].shape
    if layer.type == "dense":
        return f"torch.nn.Linear({shape[1]}, {shape[0]})"
    if layer.type == "conv2d":
        more = f"stride={options.get('stride', 1)!r}, padding={options.get('padding', 0)!r}"
        return f"torch.nn.Conv2d({shape[1]}, {shape[0]}, {shape[2:]}, {more})"
    raise CannotWriteError(f"a layer of type {layer.type} has no torch script yet")


def flatten(subject: Subject) -> str:
    return "torch.nn.Flatten()" if since(subject, 1, 2) else "Flatten()"


def flatten_class(subject: Subject) -> list[str]:
    """torch.nn.Flatten came with 1.2."""
    if since(subject, 1, 2):
        return []
    return [
        "class Flatten(torch.nn.Module):",
        "    def forward(self, x):",
        "        return x.reshape(x.shape[0], -1)",
        "",
        "",
    ]


def batch_norm(subject: Subject, layer: Layer, rank: int) -> str:
    """PyTorch's own layer, the operator behind it, or the layer of the user's own."""
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
    if not own_words(subject):
        kind = "FunctionalBatchNorm" if by_operator(subject) else f"torch.nn.{KINDS[rank]}"
        return f"{kind}({layer.channels}, {keywords(given)})"
    own = {"affine": layer.affine, **given, **subject.case.network.arguments}
    return adapted(subject, layer, keywords(taken_by(subject.custom_source, own_words(subject), own)))


def parameters(subject: Subject, layer: Layer, name: str, beside: dict[str, Array]) -> list[str]:
    """Initial values that the scenario sets and that differ from PyTorch's own."""
    own = layer.type == "batch_norm" and bool(own_words(subject))
    lines: list[str] = reached_inside(subject, name) if own and not in_parts(subject) else []
    for what in ("gamma", "beta", "running_mean", "running_var", "weight", "bias"):
        array = subject.inputs.get(f"param/{layer.name}/{what}")
        if array is None or not recorded(subject, layer, what):
            continue
        drawn = what == "gamma" and not since(subject, 1, 2)  # older versions start from random numbers
        if what in USUAL and bool((array == USUAL[what]).all()) and not own and not drawn:
            continue
        if array.size > LITERAL:
            variable = f"{name}_{what}"
            lines += array_code(variable, array, None, "param", beside)[1]
            value = f"torch.from_numpy({variable})"
        else:
            value = f"torch.tensor({nested(array)})"
        if own and in_parts(subject):
            lines.append(f'{name}_state.start("{what}", {value})')
            continue
        held = f"{name}.{own_name(subject, what)}"
        lines.append(f"{held}.data.copy_({f'{value}.reshape({held}.shape)' if own else value})")
    return lines


def recorded(subject: Subject, layer: Layer, what: str) -> bool:
    """Whether the layer holds this: a layer of the user's own may have others."""
    if what in ("gamma", "beta"):
        return layer.affine
    if what not in ("running_mean", "running_var"):
        return True
    trace = subject.trace
    return layer.track_running_stats and (layer.name not in trace.layers or f"{layer.name}/{what}" in trace.arrays)


def placed(subject: Subject) -> list[str]:
    """dtype, device and how the network is run."""
    lines = []
    if subject.case.dtype != "float32" and subject.case.network.parts == "complex":
        wide = "torch.complex128" if subject.case.dtype == "float64" else "torch.complex64"
        lines.append(f"net._apply(lambda t: t.to({wide}) if t.is_complex() else t.to(torch.{subject.case.dtype}))")
    elif subject.case.dtype != "float32":
        lines.append(f"net.to(torch.{subject.case.dtype})")
    if subject.target.device != "cpu":
        lines.append(f"net.to({subject.target.device!r})")
    return [*lines, *running(subject)]
