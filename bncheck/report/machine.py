"""A run's command and its targets' environments, in words for people on other machines. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath

from bncheck.report.markdown_text import table, text
from bncheck.report.plain_text import plural, scalar, words
from bncheck.run_folder.results import TargetResult


def portable(command: str) -> str:
    """The command without what belongs to the machine it ran on: where it wrote, which interpreters it took."""
    try:
        given = shlex.split(command)
    except ValueError:
        return "bncheck run"
    kept: list[str] = []
    while given:
        word = given.pop(0)
        if word in ("--out", "--python", "--resume"):
            given = given[1:]
        elif not word.startswith(("--out=", "--python=", "--resume=")):
            kept.append(PurePath(word).name if PurePath(word).is_absolute() else word)
    return shlex.join(kept) or "bncheck run"


def environment_text(targets: Sequence[TargetResult]) -> str:
    """environment.md: what the maintainers of a framework ask for, one block per target."""
    lines = ["# Environment", ""]
    for target in targets:
        said = dict(target.environment)
        cores = plural(int_of(said.pop("cores", 0)), "core")
        rows: list[tuple[str, object]] = [
            ("version", target.version or "-"),
            ("device", target.device),
            ("Python", said.pop("python", target.python)),
            ("NumPy", said.pop("numpy", "-")),
            ("OS", said.pop("platform", "-")),
            ("CPU", f"{said.pop('processor', '-')} ({said.pop('machine', '-')}, {cores})"),
        ]
        gpu = said.pop("gpu", "none used" if target.device.partition(":")[0] == "cpu" else "-")
        rows += [("GPU", gpu), ("CUDA", said.pop("CUDA", "") or "none"), ("cuDNN", said.pop("cudnn", "none"))]
        for key in ("version", "import_seconds", "unavailable", "remedy"):
            said.pop(key, None)
        rows += [(words(key), value) for key, value in sorted(said.items())]
        lines += [
            f"## {text(target.label)}",
            *table(("", ""), [[text(key), text(scalar(value))] for key, value in rows]),
        ]
    return "\n".join(lines).rstrip() + "\n"


def int_of(value: object) -> int:
    return value if isinstance(value, int) else 0
