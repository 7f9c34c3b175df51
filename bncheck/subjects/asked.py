"""What a user asks of ``check``, and how it is written on the command line."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bncheck.errors import UsageError
from bncheck.gate.bar import Bar
from bncheck.subjects.thing import Thing

INPUT = re.compile(r"(?:(?P<dtype>[a-z]+[0-9]*):)?(?P<shape>[0-9]{1,15}(?:[,x][0-9]{1,15}){0,31})")
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")


@dataclass(frozen=True)
class Asked:
    """What a user asked of ``check``."""

    thing: Thing
    given: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    weights: Path | None = None
    data: Path | None = None
    steps: int = 3
    kind: str = ""
    python: str | None = None
    save_scenario: Path | None = None
    out: Path | None = None
    seconds: float = 120.0
    bar: Bar = Bar()
    formats: Sequence[str] = ("csv", "plots", "html")
    strict: bool = False  # nobody said what fails: a layer fails by any difference
    verbose: bool = False
    command: str = field(default_factory=lambda: shlex.join(["bncheck", *sys.argv[1:]]))


def parse_input(text: str) -> dict[str, Any]:
    """``8,3,32,32`` or ``int64:8,10``.

    >>> parse_input("int64:8,10")
    {'dtype': 'int64', 'shape': [8, 10]}
    """
    match = INPUT.fullmatch(text.replace(" ", "").strip("[]()"))
    dtype = (match["dtype"] or "float32") if match else ""
    if match is None or dtype not in DTYPES:
        raise UsageError(
            f"--input {text}: not a shape", f"for example --input 8,3,32,32 or --input int64:8,10 ({', '.join(DTYPES)})"
        )
    return {"dtype": dtype, "shape": [int(size) for size in re.split("[,x]", match["shape"])]}


def parse_with(texts: Sequence[str]) -> dict[str, Any]:
    """``key=value`` of ``--with``; values as in TOML, Python's True, False and None too, else a string."""
    if not texts:
        return {}
    from bncheck.scenario_files.overrides import parse_override  # it imports what reads scenarios

    # nan and inf would be numbers in TOML; they stand for no argument of a model, but may be words.
    words = {"True": True, "False": False, "None": None, **{word: word for word in ("nan", "inf", "+inf", "-inf")}}
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip().isidentifier():
            raise UsageError(f"--with {text}: not KEY=VALUE", "for example --with eps=1e-3 --with pretrained=false")
        found[key.strip()] = words[value.strip()] if value.strip() in words else parse_override(text)[1]
    return found
