"""``bncheck.check`` and ``bncheck.diff``: a model of this process by what it holds, the rest as the command does."""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bncheck.diagnosis.alone import judge_holding
from bncheck.errors import UsageError
from bncheck.life import Held, Holding
from bncheck.python.hands import backend_of, side
from bncheck.python.result import Result, now
from bncheck.run_folder.answer import MOST, Answer, read_answer
from bncheck.run_folder.lives import read_lives
from bncheck.run_folder.results import TargetResult
from bncheck.subjects.checkpoint import COLUMNS, headline, row_of
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


def check(thing: Any, **options: Any) -> Result:
    """Is a thing right? A model object is judged by what its layers hold. A class of a layer, the text
    ``"model.py:build"``, a checkpoint or an ONNX file is taken as by ``bncheck check``; ``options`` are those of
    :class:`bncheck.subjects.check.Asked` (``weights``, ``data``, ``given``, ``inputs``, ``steps``).

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
    path, name = inspect.getsourcefile(thing), thing.__qualname__
    if path is None or not Path(path).is_file() or "<locals>" in name:
        raise UsageError(f"{name} stands in no file, and check plays it in a process of its own.",
                         "Write it into a file, or compare it here: bncheck.assert_equivalent(…)")  # fmt: skip
    return f"{path}:{name}"


def play(text: str, options: Mapping[str, Any]) -> Result:
    from bncheck.subjects.check import Asked
    from bncheck.subjects.check import check as check_there
    from bncheck.subjects.thing import parse_thing

    keeper = tempfile.TemporaryDirectory(prefix="bncheck-check-")
    given = {"python": sys.executable, **{key: wanted(key, value) for key, value in options.items()}}
    try:
        asked = Asked(thing=parse_thing(text), out=Path(keeper.name) / "run", formats=(), **given)
    except TypeError as error:
        raise UsageError(f"check takes no such option: {error}.", "bncheck check --help has them.") from None
    if asked.thing.kind != "code":
        asked = replace(asked, python=options.get("python"))
    run, results = check_there(asked, Silent())
    answer = read_answer(run)
    assert answer is not None
    return Result(answer, results, read_lives(run), run, keeper)


def wanted(key: str, value: Any) -> Any:
    return Path(value) if key in ("weights", "data", "save_scenario") and value is not None else value


def held(model: Any) -> Result:
    """What a model in this process holds, now."""
    backend = backend_of(model)
    states = side(model).states(model)
    name = slug_of(type(model).__name__)
    assert backend is not None
    holding = Holding(
        name=name,
        framework=backend.name,
        format="model",
        layers=tuple(layer_of(layer, found) for layer, found in states.items()),
    )
    found = tuple(replace(each, case=name) for each in judge_holding(holding))
    answer = Answer(
        verb="check",
        subject=name,
        headline=headline([holding], found),
        columns=COLUMNS,
        rows=tuple(row_of(layer, found) for layer in holding.layers[:MOST]),
        notes=("Looked at is what it holds now; what it does in training and eval is seen by bncheck.watch(model).",),
    )
    target = TargetResult(name=name, slug=name, backend=backend.name, device="")
    return Result(answer, results_of(answer, found, [target], "bncheck.check()", now()))


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
