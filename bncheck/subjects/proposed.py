"""Which class or function of a file of code is proposed to somebody who named the file alone: one that can be made as
it stands, by what its source shows. Pure."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

# Functions that are called so make a model; others may train one, or read data.
BUILDS = re.compile(r"^(build|make|create)$|model|network|(^|_)net(_|$)", re.IGNORECASE)
WORKS = re.compile(r"^_|^(main|train|test|eval|evaluate|run|fit|save|export|plot|print|log|summar)", re.IGNORECASE)
RUNS = ("forward", "call", "__call__", "hybrid_forward")  # what a layer or a model of some framework has
OTHERS = "another one: FILE.py:NAME, with --with KEY=VALUE for each argument that it needs"


@dataclass(frozen=True)
class Made:
    """A name of a file, and the arguments without which it cannot be called. ``rank``: the least is proposed first."""

    name: str
    lacks: tuple[str, ...]
    rank: int


def names_in(source: ast.Module | None) -> list[str]:
    kinds = (ast.ClassDef, ast.FunctionDef)
    return [node.name for node in source.body if isinstance(node, kinds)] if source else []


def proposal(text: str, source: ast.Module | None) -> str:
    """What to type after ``text``, the file, was named alone."""
    found = sorted(candidates(source), key=lambda made: made.rank) if source else []
    if not found:
        return "write a function that builds your model"
    words = "".join(f" --with {word}=VALUE" for word in found[0].lacks)
    return f"bncheck check {text}:{found[0].name}{words} ({OTHERS.replace('FILE.py', text)})"


def candidates(source: ast.Module) -> Iterator[Made]:
    """Of those of one rank, models come last in a file, behind the layers that they are made of."""
    from bncheck.diagnosis.inside import CLAIMS  # with NumPy: where a file alone was named, and nowhere else

    classes = {node.name: node for node in source.body if isinstance(node, ast.ClassDef)}
    torch = any("torch" in ast.unparse(node) for node in source.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    for node in reversed(source.body):
        if isinstance(node, ast.FunctionDef):
            builds, lacks = bool(BUILDS.search(node.name)), required(node.args)
            if not WORKS.search(node.name) and gives(node) and (builds or mentions(node, classes)):
                usual = -1 if node.name == "build" else 0  # as in the documentation
                yield Made(node.name, lacks, (usual if builds else 3) if not lacks else 5 if builds else 7)
        elif isinstance(node, ast.ClassDef):
            family = list(lineage(node, classes))
            init = next((each for each in family if method(each, "__init__")), None)
            lacks = required(method(init, "__init__").args, bound=True) if init is not None else ()  # type: ignore[union-attr]
            a_layer = bool(CLAIMS.search(node.name)) and len(lacks) < 2
            if any(method(each, word) for each in family for word in RUNS) or a_layer:
                # A layer in BatchNorm's place gets the number of channels from check.
                yield Made(node.name, () if a_layer else lacks, 4 if a_layer else 2 if not lacks else 6)
            else:
                yield Made(node.name, lacks, 8)
        elif torch and isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made, target = ast.unparse(node.value.func), node.targets[0]
            runs = made in classes and any(method(each, "forward") for each in lineage(classes[made], classes))
            if isinstance(target, ast.Name) and runs:
                yield Made(target.id, (), 1)


def lineage(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    """The class and those of the same file that it derives from, nearest first."""
    waiting, seen = [node], set[str]()
    while waiting:
        here = waiting.pop(0)
        if here.name not in seen:
            seen.add(here.name)
            yield here
            waiting += [classes[name] for base in here.bases if (name := ast.unparse(base)) in classes]


def method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == name), None)


def gives(node: ast.FunctionDef) -> bool:
    """Whether it returns something, as what makes a model does."""
    return any(isinstance(each, ast.Return) and each.value is not None for each in ast.walk(node))


def mentions(node: ast.FunctionDef, classes: dict[str, ast.ClassDef]) -> bool:
    """Whether it speaks of what layers and models are made of."""
    words = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    words |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
    return bool(words & {*classes, "nn", "layers", "Sequential", "models"})


def required(given: ast.arguments, bound: bool = False) -> tuple[str, ...]:
    """Arguments without a default; ``bound``: the first is the object itself."""
    plain = [each.arg for each in [*given.posonlyargs, *given.args]][bound:]
    needed = plain[: len(plain) - len(given.defaults)] if given.defaults else plain
    named = [each.arg for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    return (*needed, *named)
