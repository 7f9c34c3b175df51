"""Code of the user's own in a PyTorch script: a layer, or a function that builds a whole network."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from bncheck.repro.spares import copied
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.worker.torch_side.custom import NAMES

# Names that a script gives a meaning itself, on its top level.
OURS = (
    "net",
    "np",
    "torch",
    "dist",
    "copy",
    "sys",
    "os",
    "x",
    "y",
    "ys",
    "X",
    "DY",
    "EXPECTED",
    "SOURCE",
    "TOLERANCE",
    "REFUSED",
    "SIZES",
    "COVARIANCES",
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
    "run",
    "out",
    "inner",
    "second",
    "programs",
    "problems",
    "viewed",
    "Parts",
    "Layout",
    "stack",
    "count_of",
    "part",
    "whole",
    "of",
    "together",
    "apart",
    "rank",
    "store",
    "others",
    "saved",
    "mode",
    "session",
    "exported",
    "sample",
    "gcd",
    "Flatten",
    "Keep",
    "seen",
    "turn",
)


def own_words(subject: Subject) -> str:
    """``path.py:Class`` of the layer of the user's own, where this target plays it; "" elsewhere."""
    return "" if subject.target.variant == "builtin" else subject.case.network.custom or ""


def own_code(subject: Subject) -> list[str]:
    """The source of the user's own code, as it stands in the file that the scenario names."""
    words = own_words(subject) or subject.case.network.model or ""
    if not words:
        return []
    what, name = "layer" if own_words(subject) else "network", words.rpartition(":")[2]
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise CannotWriteError(f"the {what} of your own has no plain name")
    return copied(subject.custom_source, name, OURS, what)


def taken_by(source: str, words: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that a class's constructor has an argument for, under that argument's name, as the run passed them;
    all of them where its source does not show (its ``__init__`` is a framework's, or takes ``**keywords``)."""
    known = arguments_of(source, words.rpartition(":")[2])
    if known is None:
        return dict(given)
    named = {word: next((name for name in NAMES.get(word, (word,)) if name in known), "") for word in given}
    return {named[word]: value for word, value in given.items() if named[word]}


def arguments_of(source: str, name: str) -> set[str] | None:
    """Names of the arguments of a class's own ``__init__``, or of that of the first base in the same text."""
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)} if source else {}
    waiting, seen = [name], set()
    while waiting:
        here = waiting.pop(0)
        if here not in classes or here in seen:
            return None
        seen.add(here)
        for node in classes[here].body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                if node.args.kwarg is not None:
                    return None
                places = [*node.args.posonlyargs, *node.args.args][2:]  # self, and the number of channels
                return {each.arg for each in (*places, *node.args.kwonlyargs)}
        waiting = [base.id if isinstance(base, ast.Name) else "" for base in classes[here].bases][:1] + waiting
    return None


def own_name(subject: Subject, what: str) -> str:
    """The attribute in which a layer holds a state: PyTorch's word, or the one that the layer's own source has."""
    if what not in NAMES:
        return what
    usual = {"counter": "num_batches_tracked", "gamma": "weight", "beta": "bias"}.get(what, what)
    if not own_words(subject):
        return told_name(subject, what, usual)
    state = told(subject, "custom") or {}
    if what in state:
        return plain(state[what])
    source = body_of(subject.custom_source, own_words(subject).rpartition(":")[2])
    said = [name for name in NAMES[what] if re.search(rf"self\.{name}\b|[\"']{name}[\"']", source)]
    return said[0] if said else usual


def told_name(subject: Subject, what: str, usual: str) -> str:
    """The same for a layer inside a whole network."""
    state = told(subject, "layers")
    if state is None:
        return usual
    kept = what != "counter" and subject.trace.get(subject.layer, what) is not None
    return plain(state.get(what, "" if kept else usual))


def told(subject: Subject, where: str) -> Mapping[str, Any] | None:
    """The names that a layer of the user's own gives its state, as its worker says: foreign text. None: not said."""
    cell = subject.notes.get("cell")
    layers = cell.get(where) if isinstance(cell, Mapping) else None
    layer = layers.get(subject.layer) if isinstance(layers, Mapping) else None
    state = layer.get("state") if isinstance(layer, Mapping) else None
    return state if isinstance(state, Mapping) else None


def plain(name: object) -> str:
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)):
        raise CannotWriteError("the layer keeps its statistics in another form, or in another layer inside it")
    return name


def body_of(source: str, name: str) -> str:
    """The text of a class, with those of its bases in the same file; all of it where the class is not found."""
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)} if source else {}
    waiting, found = [name], dict[str, str]()
    while waiting:
        here = waiting.pop()
        if here in classes and here not in found:
            found[here] = ast.get_source_segment(source, classes[here]) or ""
            waiting += [base.id for base in classes[here].bases if isinstance(base, ast.Name)]
    return "\n".join(found.values()) or source


def reached_inside(subject: Subject, name: str) -> list[str]:
    """PyTorch's names for what a layer inside the user's holds: a wrapper hands out none of it."""
    if {"gamma", "running_mean"} <= (told(subject, "custom") or {}).keys():
        return []
    said = body_of(subject.custom_source, own_words(subject).rpartition(":")[2])
    inherits = re.search(r"^class \w+\(.*Norm\w*\)", said, re.MULTILINE)
    if inherits or all(re.search(rf"self\.({'|'.join(NAMES[what])})\b", said) for what in ("gamma", "running_mean")):
        return []
    return [
        "def inside(word):",
        '    """What the first module inside the layer holds under a name that the layer itself does not have."""',
        "    held = lambda self: [getattr(m, word, None) for m in list(self.modules())[1:]]  # noqa: E731",
        "    return property(lambda self: next(t for t in held(self) if isinstance(t, torch.Tensor)))",
        "",
        "",
        'for word in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):',
        f"    if not isinstance(getattr({name}, word, None), torch.Tensor):",
        f"        setattr(type({name}), word, inside(word))",
    ]
