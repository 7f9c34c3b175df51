"""Tensors in a PyTorch script: inputs as the run laid them out, outputs as the report sampled them."""

# The functions that scripts get a copy of carry no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

import inspect

from bncheck.repro.standalone.subject import Subject
from bncheck.worker.recorder import sample

VIEWS = ("permuted", "strided", "sliced")


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
    if subject.case.network.replicas:
        text = f"whole({text})"
    if last_axis(subject):
        text = f"{text}.permute(0, {', '.join(map(str, range(2, subject.rank)))}, 1)"
    found = array_of(subject, text)
    if subject.case.network.model:  # nobody but the network knows the shape of its output
        return f"sample({found}, {subject.sample})"
    return f"{found}.reshape(-1)[::{subject.stride}]" if subject.stride > 1 else found


def tensor(subject: Subject, array: str) -> str:
    """``array`` (NumPy code) as a tensor of the case's dtype on its device; a replica takes its own part of it."""
    more = "" if subject.target.device == "cpu" else f", device={subject.target.device!r}"
    dtype = subject.case.dtype
    cast = dtype == "bfloat16" or any(getattr(spec, "dtype", dtype) != dtype for spec in subject.specs.values())
    more += f", dtype=torch.{dtype}" if cast else ""
    text = f"torch.tensor({f'part({array})' if subject.case.network.replicas else array}{more})"
    if last_axis(subject):
        text += f".permute(0, -1, {', '.join(map(str, range(1, subject.rank - 1)))})"
    return text


def view_of(subject: Subject, name: str) -> str:
    """How the batches of an input lie in memory; contiguous where the run does not say."""
    return str(getattr(subject.specs.get(name), "view", "contiguous"))


def laid_out(subject: Subject, name: str, array: str) -> str:
    """The batch of this input as a tensor, in the memory layout that the scenario asks for."""
    given, view = tensor(subject, array), view_of(subject, name)
    return f'viewed({given}, "{view}")' if view in VIEWS else given


def sample_function(subject: Subject) -> list[str]:
    """``sample`` as the run's worker has it, for outputs whose shape only the network knows."""
    if not subject.case.network.model:
        return []
    return ["from math import gcd", "", "", *inspect.getsource(sample).rstrip().splitlines(), "", ""]


def view_function(subject: Subject) -> list[str]:
    """``viewed``, where an input does not lie contiguous in memory."""
    if all(view_of(subject, name) not in VIEWS for name in subject.specs):
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
