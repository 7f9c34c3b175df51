"""``bncheck.check`` and ``bncheck.diff``: a model of this process by what it holds, the rest as the command does."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bncheck.bounded import is_regular
from bncheck.errors import UsageError
from bncheck.life import Held, Holding
from bncheck.python.hands import backend_of, side
from bncheck.python.result import Result, now
from bncheck.run_folder.answer import read_answer
from bncheck.run_folder.lives import read_lives
from bncheck.run_folder.results import Results, TargetResult
from bncheck.subjects.checkpoint import look_at_object
from bncheck.subjects.conclusion import results_of, slug_of

QUANTITIES = ("running_mean", "running_var", "gamma", "beta")


class Silent:
    """Who is told how it goes, and says nothing."""

    def expect(self, total: int) -> None:
        return None

    def say(self, text: str) -> None:
        return None

    def cell(self, progress: Any) -> None:
        return None


class Keeper:
    """A folder for a run that lasts as long as its result."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bncheck-"))
        self.run = self.folder / "run"
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def check(thing: Any, **options: Any) -> Result:
    """Is a thing right? A model object is judged by what its layers hold. A class of a layer, the text
    ``"model.py:build"``, a checkpoint or an ONNX file is taken as by ``bncheck check``; ``options`` are those of
    :class:`bncheck.subjects.asked.Asked` (``weights``, ``data``, ``given``, ``inputs``, ``steps``).

    UsageError where it cannot be checked."""
    if isinstance(thing, (str, os.PathLike)):
        return play(os.fspath(thing), options)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        return play(written(thing), options)
    if options:
        raise UsageError(f"{next(iter(options))}=… is for what is played, and a model object is not.", "Leave it out.")
    return held(thing)


def written(thing: Any) -> str:
    """``file.py:Name`` of a class or function. UsageError for one that no file defines."""
    name = thing.__qualname__
    try:
        path = inspect.getsourcefile(thing)
    except (TypeError, OSError):  # a notebook's, or one that was made at run time
        path = None
    if path is None or not is_regular(Path(path)) or "<locals>" in name:
        raise UsageError(
            f"{name} stands in no file, and check plays it in a process of its own.",
            "Write it into a file, or compare it here: bncheck.assert_equivalent(…)",
        )
    return f"{path}:{name}"


def play(text: str, options: Mapping[str, Any]) -> Result:
    from bncheck.subjects.asked import Asked
    from bncheck.subjects.check import check as check_there
    from bncheck.subjects.thing import parse_thing

    keeper = Keeper()
    given = {"python": sys.executable, **{key: wanted(key, value) for key, value in options.items()}}
    try:
        asked = Asked(thing=parse_thing(text), out=keeper.run, formats=(), **given)
    except TypeError as error:
        raise UsageError(f"check takes no such option: {error}.", "bncheck check --help has them.") from None
    if asked.thing.kind != "code":
        asked = replace(asked, python=options.get("python"))
    return kept(*check_there(asked, Silent()), keeper)


def kept(run: Path, results: Results, keeper: Keeper) -> Result:
    answer = read_answer(run)
    assert answer is not None
    return Result(answer, results, read_lives(run), run, keeper)


def wanted(key: str, value: Any) -> Any:
    return Path(value) if key in ("weights", "data", "save_scenario") and value is not None else value


def holding_of(model: Any) -> Holding:
    """What a model in this process holds, now."""
    states, backend = side(model).states(model), backend_of(model)
    assert backend is not None
    return Holding(
        name=slug_of(type(model).__name__),
        framework=backend.name,
        format="model",
        layers=tuple(layer_of(layer, found) for layer, found in states.items()),
    )


def held(model: Any) -> Result:
    note = "Looked at is what it holds now; what it does in training and eval is seen by bncheck.watch(model)."
    checked = look_at_object(holding_of(model), note)
    results = results_of(checked.answer, checked.findings, [checked.target], "bncheck.check()", now())
    return Result(checked.answer, results)


def diff(a: Any, b: Any, **options: Any) -> Result:
    """Do two things hold and compute the same, and if not, which layer first and why? Two model objects are compared by
    what their layers hold; two texts or paths as by ``bncheck diff`` (``options`` as there).

    UsageError where they cannot be compared."""
    texts = [isinstance(each, (str, os.PathLike)) for each in (a, b)]
    if all(texts):
        return diff_named(os.fspath(a), os.fspath(b), options)
    if any(texts):
        raise UsageError(
            "A model object is compared with another, and a file with a file.",
            "Save the model's state_dict() and name its file, or load the file into a model.",
        )
    from bncheck.subjects.two_files import objects_side_by_side

    sides = [holding_of(each) for each in (a, b)]
    names = [each.name for each in sides]
    names = [f"{names[0]} (first)", f"{names[1]} (second)"] if names[0] == names[1] else names
    answer, found, missed = objects_side_by_side(sides[0], sides[1], (names[0], names[1]))
    if missed:
        raise UsageError(f"{missed[0].sentence}.", missed[0].remedy)
    targets = [
        TargetResult(name=name, slug=slug_of(name), backend=each.framework, device="")
        for name, each in zip(names, sides, strict=True)
    ]
    return Result(answer, results_of(answer, found, targets, "bncheck.diff()", now()))


def diff_named(a: str, b: str, options: Mapping[str, Any]) -> Result:
    from bncheck.subjects.diff import diff as diff_there
    from bncheck.subjects.sides import AskedDiff, parse_side

    keeper = Keeper()
    given = {"python": sys.executable, **{key: wanted(key, value) for key, value in options.items()}}
    try:
        asked = AskedDiff(a=parse_side(a), b=parse_side(b), out=keeper.run, formats=(), **given)
    except TypeError as error:
        raise UsageError(f"diff takes no such option: {error}.", "bncheck diff --help has them.") from None
    return kept(*diff_there(asked, Silent()), keeper)


def layer_of(name: str, found: Mapping[str, Any]) -> Held:
    arrays = {key: found[key].reshape(-1) for key in QUANTITIES if key in found}
    momentum, eps = found["momentum"], found["eps"]
    return Held(
        layer=name,
        **arrays,
        counter=found["counter"],
        eps=float(eps) if isinstance(eps, (int, float)) else None,
        momentum=float(momentum) if isinstance(momentum, (int, float)) else None,
        training=found["training"],
        dtypes=found["dtypes"],
        shapes={key: found[key].shape for key in arrays},
        keys=found["keys"],
    )
