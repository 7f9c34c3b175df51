"""The lines of the design that hold it together, held against the imports of the code."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import bncheck
from bncheck.diagnosis.rules import load_rules

ROOT = Path(bncheck.__file__).parent
FRAMEWORKS = {
    "flax", "haiku", "jax", "keras", "mlx", "mxnet", "onnx", "onnxruntime", "paddle", "tensorflow", "tf_keras",
    "tinygrad", "torch", "torchvision",
}  # fmt: skip
# What lies between a trace and a finding: pure functions of data.
PURE = ("convention.py", "evidence.py", "finding.py", "trace.py", "diagnosis")
CONDUCTS = (ROOT / "diagnosis" / "analyse.py", ROOT / "diagnosis" / "views.py")  # read traces, and write behind them
# Makers of literal traces, holdings and lives: a test that has none of them fires no rule.
LITERAL = ("make_trace", "programs", "life_of")
IO = {"click", "io", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile", "urllib"}


def sources(*places: str) -> list[Path]:
    found = [ROOT / place for place in places]
    return sorted(file for place in found for file in ([place] if place.is_file() else place.rglob("*.py")))


@functools.cache  # every line looks at the same files
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@functools.cache
def rule_tests() -> tuple[str, ...]:
    found = [path for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name]
    return tuple(
        text for text in (path.read_text(encoding="utf-8") for path in found) if any(maker in text for maker in LITERAL)
    )


def imported(path: Path) -> Iterator[str]:
    """Top-level names of all modules that a file imports, inside functions too."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_the_host_knows_no_framework() -> None:
    host = [path for path in sources(".") if ROOT / "worker" not in path.parents]
    assert len(host) > 150
    assert {path.name: found for path in host if (found := FRAMEWORKS & set(imported(path)))} == {}


def test_nothing_between_a_trace_and_a_finding_does_io() -> None:
    pure = [path for path in sources(*PURE) if path not in CONDUCTS]
    assert len(pure) > 70
    assert {path.name: found for path in pure if (found := IO & set(imported(path)))} == {}
    calls = [
        f"{path.name}:{node.lineno}"
        for path in pure
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print", "exit")
    ]
    assert calls == []


def test_nothing_between_a_trace_and_a_finding_knows_how_files_are_read_or_written() -> None:
    hands = {"bncheck.bounded", "bncheck.worker.archive"}
    hands |= {f"bncheck.run_folder.{name}" for name in ("arrays", "cell", "cell_files", "folder", "whole")}
    found = {
        f"{path.name} imports {node.module}"
        for path in sources(*PURE)
        if path not in CONDUCTS
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and node.module in hands
    }
    assert found == set()


def test_a_rules_file_is_named_after_its_code_and_cause() -> None:
    names = {path.stem for path in (ROOT / "diagnosis" / "rules").rglob("bn*.py")}
    assert names == {f"{rule.code.lower()}_{rule.cause.replace('-', '_')}" for rule in load_rules()}


@pytest.mark.parametrize("code", [rule.code for rule in load_rules()])
def test_every_rule_is_fired_by_a_literal_test(code: str) -> None:
    """Its file, its code or its cause stands in a test of rules on literal traces."""
    (rule,) = [item for item in load_rules() if item.code == code]
    words = (f'"{rule.cause}"', f'"{code}"', f"{code.lower()}_{rule.cause.replace('-', '_')}")
    assert any(word in text for text in rule_tests() for word in words)


def rooms() -> dict[str, set[str]]:
    """Room → rooms that it imports, inside functions too: a folder, or a module of the top level."""

    def room(parts: Sequence[str]) -> str:
        return parts[0] if parts else "bncheck"

    found: dict[str, set[str]] = {}
    for path in sources("."):
        place = path.relative_to(ROOT).with_suffix("").parts
        if place[0] == "worker":
            continue
        known = found.setdefault(room(place), set())
        for node in nodes(path):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            known.update(room(parts[1:]) for name in names if (parts := name.split("."))[0] == "bncheck" and parts[1:])
    return {name: others - {name} for name, others in found.items()}


def test_no_stage_imports_one_that_imports_it() -> None:
    """In whatever order rooms without an arrow to one that is left are taken out, none is left in the end."""
    left = rooms()
    while free := [name for name, others in left.items() if not others & left.keys()]:
        left = {name: others for name, others in left.items() if name not in free}
    assert left == {}


LATER = {"fleet"}  # what was built since, with arrows of its own


def test_few_rooms_know_of_each_other() -> None:
    """263 arrows led from room to room when the code was one shelf; a word in the wrong place adds a handful."""
    kept = {room: others - LATER for room, others in rooms().items() if room not in LATER}
    assert sum(map(len, kept.values())) <= 131


def modules() -> dict[str, set[str]]:
    """Module of the host → modules that it imports, inside functions and for type checking too."""

    def name(path: Path) -> str:
        return ".".join(("bncheck", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")

    host = {name(path): path for path in sources(".") if ROOT / "worker" not in path.parents}
    found = {}
    for module, path in host.items():
        names: set[str] = set()
        for node in nodes(path):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path.name}:{node.lineno}: an import without its whole name"
                # `from package import module` imports the module; of anything else the package is what is meant.
                names.update(f"{node.module}.{alias.name}" for alias in node.names if alias.name != "*")
                names.update(
                    [node.module or ""] if any(f"{node.module}.{a.name}" not in host for a in node.names) else []
                )
        found[module] = (names & host.keys()) - {module}
    return found


def circles(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is left of the arrows when whoever lies on no way back to itself is taken out again and again."""
    left = arrows
    while True:
        wanted = {name for others in left.values() for name in others}
        inner = {name: others & left.keys() for name, others in left.items() if name in wanted and others & left.keys()}
        if inner == left:
            return left
        left = inner


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    """Neither at once nor by way of others. A circle is two files that are one, or a record in the wrong one."""
    assert circles({"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": set()}) == {"b": {"c"}, "c": {"b"}}
    assert circles(modules()) == {}


def test_the_words_import_nothing_but_words() -> None:
    words = {"scenario", "trace", "convention", "evidence", "finding"}
    assert {name: others - words for name, others in rooms().items() if name in words and others - words} == {}


def test_the_top_level_holds_the_words_the_face_and_the_conductor() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 12
