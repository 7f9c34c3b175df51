"""``check``: dispatch by what the thing is, play it, conclude."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

from bncheck.environments.backend_file import find_backends
from bncheck.errors import UsageError
from bncheck.gate.bar import Bar
from bncheck.run_folder.results import Results
from bncheck.session import Listener
from bncheck.subjects.interpreter import find_python
from bncheck.subjects.made import Making
from bncheck.subjects.thing import Thing

INPUT = re.compile(r"(?:(?P<dtype>[a-z]+[0-9]*):)?(?P<shape>\d+(?:[,x]\d+)*)")
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


def check(asked: Asked, listener: Listener) -> tuple[Path, Results]:
    """The run folder and what was found. UsageError and its like for what cannot be checked."""
    return {"code": check_code, "onnx": check_onnx, "checkpoint": check_checkpoint}[asked.thing.kind](asked, listener)


def check_code(asked: Asked, listener: Listener) -> tuple[Path, Results]:
    from bncheck.subjects.layer import check_layer

    backend = find_backends(())[asked.thing.framework]
    python = find_python(asked.python, backend, report=listener.say)
    if asked.verbose:
        listener.say(f"{asked.thing.text} lives in {python.path} ({python.why})")
    with tempfile.TemporaryDirectory(prefix="bncheck-") as folder:
        making = Making(python.path, job_of(asked), Path(folder) / "subject")
        Thread(target=import_judging, args=(asked,), daemon=True).start()
        found = making.wait(asked.seconds)
        if found["kind"] == "layer":
            refuse_for_layers(asked)
            if asked.save_scenario is not None:
                from bncheck.subjects.layer import save_scenario

                again = save_scenario(asked.thing, found, asked.given, asked.save_scenario)
                listener.say(f"play it again with: {again}")
            return check_layer(asked, found, python, listener)
        from bncheck.subjects.model import check_model

        return check_model(asked, found, Path(folder) / "subject", python, listener)


def refuse_for_layers(asked: Asked) -> None:
    for word, value in (("--weights", asked.weights), ("--data", asked.data)):
        if value is not None:
            raise UsageError(f"{asked.thing.text} is a layer, and {word} is for models.", f"Leave out {word}.")


def import_judging(asked: Asked) -> None:
    """What judging needs, imported while the thing is made. Which it will be is a guess, and only time hangs on it:
    comparing a layer takes pandas, and importing that would only be in a model's way."""
    if asked.kind == "layer" or (not asked.kind and re.search("norm|bn", asked.thing.name, re.IGNORECASE)):
        import pandas  # noqa: F401

        import bncheck.diagnosis.analyse
    import bncheck.report.html
    import bncheck.subjects.model  # noqa: F401
    from bncheck.diagnosis.rules import load_rules

    load_rules()


def check_onnx(asked: Asked, listener: Listener) -> tuple[Path, Results]:
    from bncheck.subjects.onnx import check_file

    return check_file(asked, listener)


def check_checkpoint(asked: Asked, listener: Listener) -> tuple[Path, Results]:
    from bncheck.subjects.checkpoint import check_checkpoint as check_file

    assert asked.thing.path is not None
    return check_file(asked.thing.path, asked, listener)


def job_of(asked: Asked) -> dict[str, Any]:
    """What worker/subject/run.py is told."""
    return {
        "module": asked.thing.module,
        "name": asked.thing.name,
        "with": dict(asked.given),
        "as": asked.kind,
        "inputs": [parse_input(text) for text in asked.inputs],
        "weights": file_of(asked.weights, "--weights"),
        "data": file_of(asked.data, "--data"),
        "steps": asked.steps,
    }


def file_of(path: Path | None, option: str) -> str:
    if path is None:
        return ""
    if not path.is_file():
        raise UsageError(f"{option}: there is no file {path}", "check the path")
    return str(path.absolute())


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
    from bncheck.scenario_files.files import parse_override

    # nan and inf would be numbers in TOML; they stand for no argument of a model, but may be words.
    words = {"True": True, "False": False, "None": None, **{word: word for word in ("nan", "inf", "+inf", "-inf")}}
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip().isidentifier():
            raise UsageError(f"--with {text}: not KEY=VALUE", "for example --with eps=1e-3 --with pretrained=false")
        found[key.strip()] = words[value.strip()] if value.strip() in words else parse_override(text)[1]
    return found
