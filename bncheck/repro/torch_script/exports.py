"""ONNX exports in a PyTorch script, and running what was exported."""

from __future__ import annotations

from bncheck.repro.standalone.steps import Step
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.repro.torch_script.tensors import tensor

MODES = {"true": "TRAINING", "false": "EVAL", "training": "TRAINING", "eval": "EVAL", "preserve": "PRESERVE"}


def export(subject: Subject, step: Step, x: str) -> list[str]:
    """torch.onnx.export of the network as it stands; what it leaves behind is printed, and seen in what follows."""
    asked = step.arguments
    given: list[str] = []
    if str(asked.get("training") or "eval").lower() not in MODES:
        raise CannotWriteError("the export asks for a mode that torch does not have")
    if asked.get("exporter", "default") in ("legacy", "dynamo"):
        given.append(f"dynamo={asked['exporter'] == 'dynamo'}")
    if asked.get("training") is not None:
        given.append(f"training=torch.onnx.TrainingMode.{MODES[str(asked['training']).lower()]}")
    if asked.get("opset") is not None:
        given.append(f"opset_version={int(asked['opset'])}")
    if asked.get("keep"):
        given.append("optimize=False" if asked.get("exporter") == "dynamo" else "do_constant_folding=False")
    flags = '{name or "net": module.training for name, module in net.named_modules()}'
    return [
        "import tempfile",
        "",
        'exported = tempfile.mkdtemp() + "/model.onnx"',
        f'print("training flags before the export:", {flags})',
        f"torch.onnx.export(net, ({tensor(subject, x)},), {', '.join(['exported', *given])})",
        f'print("training flags after the export: ", {flags})',
    ]


def run_exported(subject: Subject, x: str) -> list[str]:
    return [
        "import onnxruntime",
        "",
        'session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])',
        f"out = session.run(None, {{session.get_inputs()[0].name: {tensor(subject, x)}.numpy()}})[0]",
        "out = torch.from_numpy(out)",
    ]
