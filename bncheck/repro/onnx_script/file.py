"""A network from an ONNX file (network.file) in a script: the file lies beside it and is played as in the run."""

# The reader of files carries no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

from pathlib import PurePath
from typing import Any

from bncheck.repro.standalone.steps import Step
from bncheck.repro.standalone.subject import BESIDE, CannotWriteError, Subject
from bncheck.scenario import op_of
from bncheck.worker.onnx_side import file as onnx_file


def graph_of(subject: Subject) -> Any:
    name = PurePath(subject.case.network.file or "").name
    if not subject.model_file:
        raise CannotWriteError(f"the ONNX file {name[:60]} is not here any more, or too large to lie beside a script")
    try:
        return onnx_file.read_model(onnx_file.Graph(None), memoryview(subject.model_file), name)
    except (onnx_file.FileError, ValueError) as error:
        raise CannotWriteError(f"the ONNX file cannot lie beside a script: {error}") from error


def setup(subject: Subject) -> list[str]:
    graph = graph_of(subject)
    norms = {norm.layer: norm.training for norm in onnx_file.batch_norms(graph)}
    eps = {norm.layer: norm.eps for norm in onnx_file.batch_norms(graph)}
    if subject.target.variant:
        raise CannotWriteError("a file says its opset itself: it runs on onnxruntime without a variant")
    name, (kind, _) = next(iter(graph.inputs.items()))
    providers = '["CPUExecutionProvider"]' if subject.target.device == "cpu" else '["CUDAExecutionProvider"]'
    return [
        'FILE = Path(__file__).with_suffix(".onnx")',
        f"NORMS = {norms!r}  # BatchNormalization nodes in order: whether the file has them in training mode",
        *(
            line.replace("INPUT", repr(str(name))).replace("KIND", repr(str(kind))).replace("PROVIDERS", providers)
            for line in (*STATE, *(NEW_MODE if graph.opset >= 14 else OLD_MODE), *EDITED)
        ),
        *([f"EPS = {eps!r}", "", "", *APART] if compared(subject) else []),
        "",
    ]


def compared(subject: Subject) -> list[str]:
    """Other ways to play the file that the finding is about."""
    return [quantity.name for quantity in subject.quantities if quantity.name in BESIDE]


def held(subject: Subject) -> dict[str, str]:
    return {what: f'held[{subject.layer!r}, "{what}"]' for what in ("running_mean", "running_var", "gamma", "beta")}


def play(subject: Subject, step: Step, x: str, when: str) -> list[str]:
    op = op_of(step.op)
    if not op.call and op.runs != "file":
        raise CannotWriteError(f"the event {step.op} has no ONNX script yet")
    mode = op.mode or "as_is"
    lines = [
        f'see("{name}", {when}, apart("{mode}", {x}, "{name}"))' for name in compared(subject) if name in step.watched
    ]
    lines.append(f'y = forward("{mode}", {x})')
    strided = f".reshape(-1)[::{subject.stride}]" if subject.stride > 1 else ""
    return [*lines, *([f'see("output", {when}, y{strided})'] if "output" in step.watched else [])]


STATE = [
    'ROLES = ("gamma", "beta", "running_mean", "running_var")',
    "file = onnx.load(str(FILE))",
    "for size in (size for item in file.graph.input for size in item.type.tensor_type.shape.dim):",
    '    if size.HasField("dim_value") and size.dim_value == 0:  # stands for any size, and lets no batch in',
    '        size.ClearField("dim_value")',
    "weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in file.graph.initializer}",
    "for node in file.graph.node:",
    '    if node.op_type == "Constant" and node.attribute[0].HasField("t"):',
    "        weights[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)",
    '    elif node.op_type == "Identity" and node.input[0] in weights:',
    "        weights[node.output[0]] = weights[node.input[0]]",
    'nodes = [node for node in file.graph.node if node.op_type == "BatchNormalization"]',
    "held = {(layer, what): weights.get(name) for layer, node in zip(NORMS, nodes)",
    "        for what, name in zip(ROLES, node.input[1:])}",
    "moved = set()  # layers whose statistics a training forward has moved",
    "",
    "",
]
NEW_MODE = [
    "def set_mode(node, layer, training):",
    '    """Training is an attribute since opset 14; then the new statistics are outputs two and three."""',
    '    kept = [item for item in node.attribute if item.name != "training_mode"]',
    "    del node.attribute[:]",
    '    node.attribute.extend([*kept, helper.make_attribute("training_mode", int(training))])',
    "    set_outputs(node, layer, 3 if training else 1)",
    "",
    "",
]
OLD_MODE = [
    "def set_mode(node, layer, training):",
    '    """Before opset 14 training is five outputs, of which the second and third are the new statistics."""',
    "    set_outputs(node, layer, 5 if training else 1)",
    "",
    "",
]
EDITED = [
    "def set_outputs(node, layer, count):",
    '    names = list(node.output) + [""] * 5',
    "    del node.output[:]",
    '    node.output.extend(names[k] or f"script/{layer}/{k}" for k in range(count))',
    "",
    "",
    "def edited(mode):",
    '    """The file as it is, in training or in inference, with the statistics held; where it puts new ones."""',
    "    model, new = onnx.ModelProto(), {}",
    "    model.CopyFrom(file)",
    '    nodes = [node for node in model.graph.node if node.op_type == "BatchNormalization"]',
    "    for (layer, training), node in zip(NORMS.items(), nodes):",
    '        if mode != "as_is":',
    '            training = mode == "train"',
    "            set_mode(node, layer, training)",
    "        if layer in moved:",
    '            for place, what in ((3, "running_mean"), (4, "running_var")):',
    '                node.input[place] = f"script/{layer}/{what}"',
    "                model.graph.initializer.append(numpy_helper.from_array(held[layer, what], node.input[place]))",
    "        if training:",
    "            new.update(((layer, what), name) for what, name in zip(ROLES[2:], node.output[1:3]) if name)",
    "    made = {name for node in model.graph.node for name in node.output}",
    "    for item in [item for item in model.graph.output if item.name not in made]:",
    "        model.graph.output.remove(item)  # statistics that inference no longer gives",
    "    known = {item.name for item in model.graph.output}",
    "    shown = [name for name in new.values() if name not in known]",
    "    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in shown)",
    "    return model.SerializeToString(), new",
    "",
    "",
    "def play(mode, x, optimise=False, only_first=False, untouched=False):",
    '    """(first output, {(layer, statistic): new value}). Untouched: with no more outputs than the file has."""',
    "    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel",
    "    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL",
    "    options.log_severity_level = 4",
    "    model, new = edited(mode)",
    '    if untouched and mode == "as_is" and not moved:',
    "        model = file.SerializeToString()",
    "    session = onnxruntime.InferenceSession(model, options, providers=PROVIDERS)",
    "    names = [item.name for item in session.get_outputs()][: 1 if only_first else None]",
    "    values = dict(zip(names, session.run(names, {INPUT: x.astype(KIND)})))",
    "    return values[names[0]], {key: values[name] for key, name in new.items() if name in values}",
    "",
    "",
    "def forward(mode, x):",
    "    y, new = play(mode, x)",
    "    held.update(new)",
    "    moved.update(layer for layer, _ in new)",
    "    return y",
    "",
    "",
]
APART = [
    "def worth(new, layer, what):",
    '    """What a difference of a statistic is measured in: a mean beside its deviation, a variance beside itself."""',
    '    value, var = np.abs(new[layer, what].astype(float)), new[layer, "running_var"].astype(float)',
    '    return value + (EPS[layer] if what == "running_var" else np.sqrt(np.maximum(var, 0) + EPS[layer]))',
    "",
    "",
    "def apart(mode, x, way):",
    '    """How far another play of the same file lies from the plain one."""',
    "    y, new = play(mode, x)",
    '    y_again, new_again = play(mode, x, way.startswith("optimised"), "unused" in way, True)',
    '    if not way.endswith("_statistics"):',
    "        return np.abs(y_again - y).max()",
    "    return max((np.abs(new_again[key] - new[key]) / worth(new, *key)).max() for key in new_again)",
    "",
    "",
]
