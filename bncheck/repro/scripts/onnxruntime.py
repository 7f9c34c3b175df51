"""Straight ONNX: a model of the network per mode, made with onnx.helper, and sessions that are fed the statistics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bncheck.repro.onnx_script import file
from bncheck.repro.standalone.frame import VERSION
from bncheck.repro.standalone.literal import array_code, identifier, keywords, nested
from bncheck.repro.standalone.steps import Step
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.run_folder.results import TargetResult
from bncheck.scenario import Layer, op_of
from bncheck.trace import Array

USUAL = {"gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}


def requirements(target: TargetResult) -> list[str]:
    name = "onnxruntime" if target.device == "cpu" else "onnxruntime-gpu"
    onnx = str(target.environment.get("onnx", ""))
    return [
        f"{name}=={target.version}" if VERSION.fullmatch(target.version) else name,
        f"onnx=={onnx}" if VERSION.fullmatch(onnx) else "onnx",
    ]


def imports(subject: Subject) -> list[str]:
    found = ["import onnxruntime", "from onnx import helper, numpy_helper"]
    return ["import onnx", *found] if subject.case.network.file else found


def setup(subject: Subject, beside: dict[str, Array]) -> list[str]:
    network = subject.case.network
    if network.file:
        return file.setup(subject)
    if network.custom or network.model:
        raise CannotWriteError("onnxruntime plays no layers or networks of your own")
    norms = [layer for layer in network.layers if layer.type == "batch_norm"]
    lines = ["held = {}  # ONNX layers have no state: the caller carries the statistics from one run to the next"]
    for layer in norms:
        for what, usual in USUAL.items():
            array = subject.inputs.get(f"param/{layer.name}/{what}")
            value = nested(array) if array is not None else f"np.full({layer.channels}, {usual})"
            lines.append(f'held["{word(layer)}/{what}"] = np.array({value}, dtype={subject.case.dtype!r})')
    lines.append("weights = {}")
    for layer in network.layers:
        for what in ("weight", "bias"):
            array = subject.inputs.get(f"param/{layer.name}/{what}")
            if array is not None and layer not in norms:
                lines += array_code("value", array, None, "param", beside)[1]
                if "value" in beside:
                    beside[f"{word(layer)}_{what}"] = beside.pop("value")
                    lines[-1] = f'value = beside["{word(layer)}_{what}"]'
                lines.append(f'weights["{word(layer)}/{what}"] = value')
    return [*lines, *session(subject, norms)]


def word(layer: Layer) -> str:
    return identifier(layer.name)


def session(subject: Subject, norms: list[Layer]) -> list[str]:
    opset = subject.target.variant[5:] if subject.target.variant else "15"
    if not re.fullmatch(r"\d{1,2}", opset):
        raise CannotWriteError(f"there is no script for the variant {subject.target.variant!r} of onnxruntime yet")
    kind = f"helper.np_dtype_to_tensor_dtype(np.dtype({subject.case.dtype!r}))"
    providers = '["CPUExecutionProvider"]' if subject.target.device == "cpu" else '["CUDAExecutionProvider"]'
    last, nodes = nodes_of(subject)
    returned = next(
        (f"{word(each)}/y" for each in subject.case.network.layers if each.name == subject.case.network.returns), last
    )
    last = f'"{last}"' if returned == last else f'"{last}" if training else "{returned}"'
    news = [f"{word(layer)}/new_{what}" for layer in norms for what in ("running_mean", "running_var")]
    return [
        "",
        "",
        "def session(training):",
        '    """The network as an ONNX model; in training the new statistics are outputs too."""',
        "    nodes = [",
        *[f"        {node}," for node in nodes],
        "    ]",
        f"    outputs = [{last}] + ({news} if training else [])",
        f"    info, kind = helper.make_tensor_value_info, {kind}",
        "    graph = helper.make_graph(",
        '        nodes, "net",',
        f'        [info("x", kind, {[None] * subject.rank}), *(info(n, kind, v.shape) for n, v in held.items())],',
        "        [info(name, kind, None) for name in outputs],",
        "        [numpy_helper.from_array(v, n) for n, v in weights.items()],",
        "    )",
        f'    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", {opset})], ir_version=8)',
        "    options = onnxruntime.SessionOptions()",
        "    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL",
        "    options.intra_op_num_threads = 1",
        f"    made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers={providers})",
        "    return made, outputs",
        "",
        "",
        "def run(made_and_outputs, x):",
        '    """One forward; in training it moves the statistics that are held."""',
        "    made, outputs = made_and_outputs",
        '    y, *new = made.run(outputs, {"x": x, **held})',
        '    held.update((name.replace("new_", ""), value) for name, value in zip(outputs[1:], new))',
        "    return y",
        "",
        "",
        *(["training = session(True)"] if uses(subject, "training") else []),
        *(["inference = session(False)"] if uses(subject, "inference") else []),
    ]


def files(subject: Subject) -> dict[str, bytes]:
    """What lies beside the script, by ending."""
    return {"onnx": subject.model_file} if subject.case.network.file else {}


def uses(subject: Subject, session: str) -> bool:
    """Whether the program runs this session here; opset 9 has no training, and plays none of its forwards."""
    played = zip(subject.case.events, subject.trace.events, strict=True)
    return any(
        session_of(event.op) == session for event, record in played if record.status not in ("skipped", "unsupported")
    )


def session_of(op: str) -> str | None:
    return {"train": "training", "no_grad": "training", "eval": "inference"}.get(op_of(op).call)


def nodes_of(subject: Subject) -> tuple[str, list[str]]:
    """(name of the network's output, one make_node per layer)."""
    value, found = "x", []
    for layer in subject.case.network.layers:
        out = f"{word(layer)}/y"
        found += list(node(layer, value, out))
        value = out
    return value, found


def node(layer: Layer, value: str, out: str) -> Iterator[str]:
    name, options = word(layer), dict(layer.options)
    if layer.type == "batch_norm":
        inputs = [value, *(f"{name}/{what}" for what in USUAL)]
        news = [f"{name}/new_{what}" for what in ("running_mean", "running_var")]
        asked = f" {keywords(given(layer))}," if given(layer) else ""
        yield (
            f'helper.make_node("BatchNormalization", {inputs!r}, ["{out}"] + ({news!r} if training else []),'
            f"{asked} **({{'training_mode': 1}} if training else {{}}))"
        )
        return
    weights = [f"{name}/weight", f"{name}/bias"]
    simple = {"flatten": "Flatten", "relu": "Relu"}
    if layer.type in simple:
        yield f'helper.make_node("{simple[layer.type]}", ["{value}"], ["{out}"])'
    elif layer.type == "global_avg_pool":
        yield f'helper.make_node("GlobalAveragePool", ["{value}"], ["{name}/pool"])'
        yield f'helper.make_node("Flatten", ["{name}/pool"], ["{out}"])'
    elif layer.type == "dense":
        yield f'helper.make_node("Gemm", {[value, *weights]!r}, ["{out}"], transB=1)'
    elif layer.type == "conv2d":
        pads, step = [options.get("padding", 0)] * 4, [options.get("stride", 1)] * 2
        yield f'helper.make_node("Conv", {[value, *weights]!r}, ["{out}"], pads={pads!r}, strides={step!r})'
    else:
        raise CannotWriteError(f"a layer of type {layer.type} has no ONNX script yet")


def given(layer: Layer) -> dict[str, Any]:
    """Attributes; ONNX's momentum is the weight of the old average."""
    found: dict[str, Any] = {}
    if layer.batch_weight is not None:
        found["momentum"] = 1.0 - layer.batch_weight
    if layer.eps is not None:
        found["epsilon"] = layer.eps
    return {**found, **layer.native.get("onnxruntime", {})}


def held(subject: Subject) -> dict[str, str]:
    if not subject.layer:
        return {}
    if subject.case.network.file:
        return file.held(subject)
    bn = identifier(subject.layer)
    return {what: f'held["{bn}/{what}"]' for what in USUAL}


def play(subject: Subject, step: Step, x: str, dys: list[str], when: str) -> list[str]:
    if step.op == "flush":
        return ["pass  # run returns when the outputs are there"]
    if subject.case.network.file:
        return file.play(subject, step, x, when)
    which = session_of(step.op)
    if which is None:
        raise CannotWriteError(f"the event {step.op} has no ONNX script yet")
    strided = f".reshape(-1)[::{subject.stride}]" if subject.stride > 1 else ""
    lines = [f"y = run({which}, {x})"]
    return [*lines, f'see("output", {when}, y{strided})'] if "output" in step.watched else lines
