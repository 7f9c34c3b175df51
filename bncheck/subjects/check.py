"""``check``: dispatch by what the thing is, play it, conclude."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from bncheck.environments.backend_file import find_backends
from bncheck.errors import UsageError
from bncheck.playing.nursery import Nursery
from bncheck.run_folder.results import Results
from bncheck.scenario import OPS, describe_ops
from bncheck.subjects.asked import Asked, parse_input
from bncheck.subjects.begun import begin_nursery
from bncheck.subjects.interpreter import find_python
from bncheck.subjects.made import Making

if TYPE_CHECKING:
    from bncheck.playing.progress import Listener
    from bncheck.playing.readied import Readied

__all__ = ["Asked", "check", "parse_input"]


def check(
    asked: Asked, listener: Listener, nursery: Nursery | None = None, ready: tuple[Readied, ...] = ()
) -> tuple[Path, Results]:
    """The run folder and what was found. UsageError and its like for what cannot be checked. What was begun
    before serves: a ``nursery`` where it is of the Python that the thing lives in, for many things too."""
    if asked.save_scenario is not None and asked.thing.kind == "checkpoint":
        raise UsageError(
            f"{asked.thing.text} is a checkpoint: nothing is played of it that a scenario could hold.",
            "Leave out --save-scenario.",
        )
    if asked.thing.kind == "code":
        return check_code(asked, listener, nursery)
    if asked.thing.kind == "onnx":
        from bncheck.subjects.onnx import check_file

        return check_file(asked, listener, ready)
    return check_checkpoint(asked, listener)


def check_code(asked: Asked, listener: Listener, nursery: Nursery | None) -> tuple[Path, Results]:
    backend = find_backends(())[asked.thing.framework]
    python = find_python(asked.python, backend, report=listener.say)
    if asked.verbose:
        listener.say(f"{asked.thing.text} lives in {python.path} ({python.why})")
    job = job_of(asked)
    with ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="bncheck-"))
        if nursery is None or nursery.python != python.path:
            made = begin_nursery(asked.thing, str(python.path))
            nursery = None if made is None else held.enter_context(made)
        making = Making(python.path, job, Path(folder) / "subject", nursery)
        Thread(target=import_judging, daemon=True).start()
        found = making.wait(asked.seconds)
        if found["kind"] == "layer":
            from bncheck.subjects.layer import check_layer

            refuse_for_layers(asked)
            if asked.save_scenario is not None:
                from bncheck.subjects.layer import save_scenario

                again = save_scenario(asked.thing, found, asked.given, asked.save_scenario)
                listener.say(f"play it again with: {again}")
            return check_layer(asked, found, python, nursery, listener)
        if asked.save_scenario is not None:
            from bncheck.subjects.saved_scenario import save_model

            again = save_model(asked, found, asked.save_scenario)
            listener.say(f"play it again with: {again}")
        from bncheck.subjects.model import check_model

        return check_model(asked, found, Path(folder) / "subject", python, listener)


def refuse_for_layers(asked: Asked) -> None:
    for word, value in (("--weights", asked.weights), ("--data", asked.data)):
        if value is not None:
            raise UsageError(f"{asked.thing.text} is a layer, and {word} is for models.", f"Leave out {word}.")


def import_judging() -> None:
    """What judging needs, imported while the thing is made: layer or model, nobody knows before its framework is
    imported, which takes longer than both."""
    import numpy.random  # noqa: F401 - NumPy itself waits until it is used

    import bncheck.diagnosis.analyse
    import bncheck.report.answer_screen
    import bncheck.report.terminal
    import bncheck.scenario_files.files
    import bncheck.subjects.layer
    import bncheck.subjects.model  # noqa: F401
    from bncheck.diagnosis.rules import load_rules

    load_rules()


def check_checkpoint(asked: Asked, listener: Listener) -> tuple[Path, Results]:
    from bncheck.subjects.checkpoint import check_checkpoint as check_file

    assert asked.thing.path is not None
    return check_file(asked.thing.path, asked, listener)


def job_of(asked: Asked) -> dict[str, Any]:
    """What worker/subject/run.py is told."""
    return {
        "module": asked.thing.module,
        "name": asked.thing.name,
        "framework": asked.thing.framework,
        "engine": asked.thing.engine,
        "with": dict(asked.given),
        "as": asked.kind,
        "inputs": [parse_input(text) for text in asked.inputs],
        "weights": file_of(asked.weights, "--weights"),
        "data": file_of(asked.data, "--data"),
        "steps": asked.steps,
        "ops": describe_ops(op.name for op in OPS),
    }


def file_of(path: Path | None, option: str) -> str:
    if path is None:
        return ""
    if not path.is_file():
        raise UsageError(f"{option}: there is no file {path}", "check the path")
    return str(path.absolute())
