"""One layer in a framework other than PyTorch: the user's, made as the run made it, or the framework's own. Pure.

How the run made a layer of the user's, its worker says in the cell's notes. Those are foreign text like all of a run
folder: a call of one plain name with plain values is taken from them, attributes are names, and nothing else.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bncheck.repro.spares import copied
from bncheck.repro.standalone.literal import array_code, nested
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.scenario import Layer
from bncheck.trace import Array

# Names that every such script gives a meaning itself.
OURS = (
    "net", "np", "os", "sys", "x", "y", "ys", "X", "DY", "EXPECTED", "SOURCE", "TOLERANCE", "REFUSED", "beside",
    "found", "refused", "see", "refuse", "look", "number", "some", "gaps", "compare", "out", "problems", "turn",
    "taped",
)  # fmt: skip
STATES = ("running_mean", "running_var", "gamma", "beta")
LITERAL = 64  # values that stand in the line that puts them in


@dataclass(frozen=True)
class Made:
    """``call`` makes the layer; ``quiet`` are arguments that it got besides, ``flags`` those by which a call says that
    it trains; ``names``: quantity → attribute of ``holder``."""

    call: str
    names: Mapping[str, str]
    quiet: tuple[str, ...] = ()
    flags: Mapping[str, bool] | None = None
    turned: tuple[int, ...] = ()
    eager: bool = False
    holder: str = "net"  # the script's name for what holds the state

    def around(self, module: str, inside: str, x: str) -> str:
        """The call ``inside`` (of what stands for {}) on x in the layer's own layout; ``module`` has a moveaxis."""
        if not self.turned:
            return inside.format(x)
        here, there = self.turned
        call = inside.format(f"{module}.moveaxis({x}, {here}, {there})")
        return f"{module}.moveaxis({call}, {there}, {here})"


def asks_the_input(subject: Subject) -> bool:
    """Whether the run asked for a gradient of the input, which decides what some kernels compute for the others."""
    return subject.case.network.input_gradient and not subject.target.variant.endswith("plain_input")


def single(subject: Subject) -> Layer:
    """The only layer of the case."""
    network = subject.case.network
    if network.file or network.model or network.replicas or network.copied:
        raise CannotWriteError("files, replicas and copies have no script of this framework yet")
    if any(spec.view != "contiguous" for spec in subject.case.inputs.values()):
        raise CannotWriteError("batches that lie in memory otherwise have no script of this framework yet")
    if len(network.layers) != 1 or network.layers[0].type != "batch_norm" or network.returns:
        raise CannotWriteError("networks of several layers have no script of this framework yet: name a finding of one")
    if subject.case.dtype != "float32" or subject.target.device != "cpu":
        raise CannotWriteError("there is a script of this framework for float32 on the CPU only")
    return network.layers[0]


def is_own(subject: Subject) -> bool:
    return bool(subject.case.network.custom) and not subject.target.variant.startswith("builtin")


def made_of(subject: Subject) -> Made:
    """How the run made the user's layer."""
    cell = subject.notes.get("cell")
    layers = cell.get("custom") if isinstance(cell, Mapping) else None
    facts = layers.get(subject.layer) if isinstance(layers, Mapping) else None
    told = facts.get("made") if isinstance(facts, Mapping) else None
    if not isinstance(told, Mapping):
        raise CannotWriteError("the run does not say how it made the layer; run it again with this version of bncheck")
    turned = told.get("turned")
    if not (isinstance(turned, list) and len(turned) in (0, 2) and all(axis in (1, -1) for axis in turned)):
        raise CannotWriteError("what the run says of the layer has a wrong shape")
    call, names, quiet, flags = (told.get(word) for word in ("call", "names", "quiet", "flags"))
    name = str(subject.case.network.custom).rpartition(":")[2]
    if not (isinstance(call, str) and plain_call(call, name)):
        raise CannotWriteError("the layer was made by a call that is not of plain values")
    if not (isinstance(names, Mapping) and isinstance(quiet, list) and isinstance(flags, Mapping)):
        raise CannotWriteError("what the run says of the layer has a wrong shape")
    words = [*names.values(), *quiet, *flags]
    if not all(isinstance(word, str) and word.isidentifier() and word.isascii() for word in words):
        raise CannotWriteError("the layer keeps its state under names that are none")
    if not all(what in names for what in ("running_mean", "running_var")):
        raise CannotWriteError("the layer keeps its state in another one inside it")
    remarks = facts.get("remarks") if isinstance(facts, Mapping) else ()
    return Made(
        call=call,
        names={str(key): str(value) for key, value in names.items()},
        quiet=tuple(map(str, quiet)),
        flags={str(key): bool(value) for key, value in flags.items()},
        turned=tuple(turned),
        eager=isinstance(remarks, list) and any("without jax.jit" in str(remark) for remark in remarks),
    )


def plain_call(text: str, name: str) -> bool:
    """Whether a text is ``Name(key=value, …)`` with values that are written out."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name and not node.args):
        return False
    try:
        return all(word.arg is not None and [ast.literal_eval(word.value)] for word in node.keywords)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return False


def with_more(call: str, more: Sequence[str]) -> str:
    """The call with further arguments."""
    inside = call.rstrip()[:-1]
    return f"{inside}{', ' if more and not inside.endswith('(') else ''}{', '.join(more)})"


def source(subject: Subject, taken: Sequence[str]) -> list[str]:
    """The user's code as it stands in the file; nothing for a framework's own layer."""
    if not is_own(subject):
        return []
    name = str(subject.case.network.custom).rpartition(":")[2]
    return copied(subject.custom_source, name, {*OURS, *taken}, "layer")


def initial(subject: Subject, beside: dict[str, Array]) -> list[tuple[str, str, list[str]]]:
    """(quantity, expression, lines in front) of the values that the scenario sets."""
    found = []
    for what in STATES:
        array = subject.inputs.get(f"param/{single(subject).name}/{what}")
        if array is None:
            continue
        short = array.size <= LITERAL
        lines = [] if short else array_code(f"start_{what}", array, None, "param", beside)[1]
        value = f'np.array({nested(array)}, dtype="float32")' if short else f"start_{what}"
        found.append((what, value, lines))
    return found


def refuse_events(op: str, framework: str) -> list[str]:
    raise CannotWriteError(f"the event {op} has no {framework} script yet")
