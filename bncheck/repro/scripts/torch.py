"""Straight PyTorch: nn modules, autograd, nothing else. Its parts are in ``report/torch_script``."""

from __future__ import annotations

from bncheck.repro.standalone.frame import VERSION
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.repro.torch_script import copies, events, parts, replicas, variants
from bncheck.repro.torch_script.network import as_it_stands, build, flatten_class, module_of, operator_class
from bncheck.repro.torch_script.own import own_code, own_name
from bncheck.repro.torch_script.tensors import array_of, sample_function, view_function
from bncheck.run_folder.results import TargetResult
from bncheck.trace import Array

play = events.play
STATES = ("running_mean", "running_var", "gamma", "beta")


def requirements(target: TargetResult) -> list[str]:
    version = target.version.partition("+")[0]
    more = ["onnx", "onnxscript", "onnxruntime"] if target.variant == "onnx" else []
    return [f"torch=={version}" if VERSION.fullmatch(version) else "torch", *more]


def imports(subject: Subject) -> list[str]:
    variants.check(subject)
    lines = [
        "# A CPU build is enough: take PyTorch's CPU wheel index where the default one offers CUDA builds only.",
        "import torch",
    ]
    lines += variants.imports(subject)
    copying = ["import copy"] if as_it_stands(subject) else []
    lines += [line for line in (*copies.imports(subject), *replicas.imports(subject), *copying) if line not in lines]
    threads = subject.target.environment.get("threads")
    if isinstance(threads, int):
        lines += ["", f"torch.set_num_threads({threads})  # as in the run: more of them add in another order"]
    return lines


def definitions(subject: Subject) -> list[str]:
    """What stands before the network is made, once."""
    if subject.case.network.file:
        raise CannotWriteError("networks from a file have no torch script yet")
    seed = ["torch.manual_seed(0)  # of a model that the file makes itself"] if as_it_stands(subject) else []
    lines = [*replicas.started(subject), *seed, *own_code(subject), *parts.classes(subject), *operator_class(subject)]
    return [*lines, *flatten_class(subject), *sample_function(subject), *view_function(subject)]


def setup(subject: Subject, beside: dict[str, Array]) -> list[str]:
    lines = [*build(subject, beside), *copies.made(subject), *replicas.wrapped(subject)]
    return [*lines, f"net.{events.one_mode(subject)}()"] if events.one_mode(subject) else lines


def held(subject: Subject) -> dict[str, str]:
    if not subject.layer:
        return {}
    if copies.is_copy(subject):
        found = copies.held(subject)
        return {what: array_of(subject, text) for what, text in found.items()}
    bn = module_of(subject, subject.layer)
    module = f"{bn}.inner" if parts.in_parts(subject) else bn
    names = {what: f"{module}.{own_name(subject, what)}" for what in (*STATES, "counter")}
    found = {what: array_of(subject, replicas.held(subject, text)) for what, text in names.items()}
    found["counter"] = f"int({replicas.held(subject, names['counter'])})"  # a custom layer may have a plain int
    return {**found, **parts.held(subject, bn)} if parts.in_parts(subject) else found


def after(subject: Subject) -> list[str]:
    return replicas.ended(subject)
