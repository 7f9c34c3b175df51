"""A layer of the user's own that takes its channels in several tensors, or as complex numbers, in a script."""

# The functions that scripts get a copy of carry no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

import inspect

from bncheck.repro.standalone.subject import Subject
from bncheck.repro.torch_script.own import own_words
from bncheck.scenario import Layer
from bncheck.worker.torch_side import parts as torch_parts

ADAPTER = [
    "class Parts(torch.nn.Module):",
    '    """One tensor in, one out, around a layer that takes its channels in parts."""',
    "",
    "    def __init__(self, inner):",
    "        super().__init__()",
    "        self.inner = inner",
    "",
    "    def forward(self, x):",
]
BODY = {
    "complex": [
        "        out = self.inner(torch.complex(*x.chunk(2, dim=1)))",
        "        return torch.cat([out.real, out.imag], dim=1)",
    ],
    "several": [
        "        return torch.cat(list(self.inner(*x.chunk({count}, dim=1))), dim=1)",
    ],
}


def in_parts(subject: Subject) -> bool:
    return subject.case.network.parts != 1 and bool(own_words(subject))


def count_of(subject: Subject) -> int:
    parts = subject.case.network.parts
    return 2 if isinstance(parts, str) else parts


def classes(subject: Subject) -> list[str]:
    """The adapter, and the reader of buffers whose layout is the layer's own affair."""
    if not in_parts(subject):
        return []
    kind = "complex" if subject.case.network.parts == "complex" else "several"
    copied = [torch_parts.count_of, torch_parts.Layout, torch_parts.stack]
    lines = [*ADAPTER, *(line.format(count=count_of(subject)) for line in BODY[kind]), "", ""]
    lines.append(f"COVARIANCES = {torch_parts.COVARIANCES!r}")
    for each in copied:
        lines += ["", "", *inspect.getsource(each).rstrip().splitlines()]
    return [*lines, "", ""]


def adapted(subject: Subject, layer: Layer, given: str) -> str:
    """The layer's constructor, in its adapter where it takes parts."""
    name = own_words(subject).rpartition(":")[2]
    if not in_parts(subject):
        return f"{name}({layer.channels}, {given})"
    return f"Parts({name}({(layer.channels or 0) // count_of(subject)}, {given}))"


def layout(subject: Subject, layer: Layer, module: str) -> list[str]:
    """The reader of one layer's buffers, made while they are as they were at the start."""
    if not in_parts(subject):
        return []
    return [f"{module}_state = Layout({module}.inner, {subject.case.network.parts!r}, {layer.channels})"]


def held(subject: Subject, module: str) -> dict[str, str]:
    """State → expression, read as the run read it: NaN where a buffer has lost its form."""
    found = {}
    for what in ("running_mean", "running_var", "running_covar"):
        rows = subject.trace.get(subject.layer, what)
        if rows is not None:
            found[what] = f'{module}_state.state().get("{what}", np.full({rows.shape[1]}, np.nan))'
    return found
