"""``bncheck.watch``: the recorder in this very process, for notebooks, loops and tests."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from bncheck.errors import UsageError
from bncheck.finding import Finding
from bncheck.life import Life
from bncheck.python.hands import WORKER, load, watchable
from bncheck.python.result import Result, result_of
from bncheck.run_folder.lives import read_lives
from bncheck.run_folder.source_lines import look_up

KEEP = "first:50,last:50,every:100"
Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


class BatchNormWarning(UserWarning):
    """A finding about a function that was watched."""


class Watch:
    """Record every normalising layer that runs inside, then judge.

    As a context manager (``with bncheck.watch(model) as seen: train()``; ``seen.findings`` afterwards) or as a
    decorator (``@bncheck.watch()``: each call is watched, and findings are warnings). ``model`` keeps to its layers;
    without one all layers of the process are followed. ``keep`` is that of ``bncheck watch --keep``.
    """

    def __init__(self, model: Any = None, *, keep: str = KEEP, name: str = "") -> None:
        self.model, self.keep, self.name = model, keep, name
        self.result: Result | None = None
        self.recorders: list[Any] = []
        self.folder: tempfile.TemporaryDirectory[str] | None = None

    # -- while it records -----------------------------------------------------------------------------------------

    def __enter__(self) -> Watch:
        if self.recorders:
            raise UsageError("This watch is running already.", "Make another: bncheck.watch(model)")
        backends = watchable(self.model)
        self.folder = tempfile.TemporaryDirectory(prefix="bncheck-watch-")
        wanted = {"folder": str(Path(self.folder.name) / "watched"), "keep": self.keep, "steps": None}
        recording = load("bncheck_watching_recorder", WORKER / "watching" / "recorder.py")
        self.result = None
        for backend in backends:
            self.recorders.append(recording.Recorder(wanted))
            load(f"bncheck_watched_{backend.name}", backend.path).watch(self.recorders[-1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.folder is not None
        recorders, self.recorders = self.recorders, []
        for recorder in reversed(recorders):
            recorder.end()
            recorder.stop()
        try:
            lives = look_up([self.own(life) for life in read_lives(Path(self.folder.name))])
            # A layer of the model may not have run: what is left is still a life.
            self.result = result_of([life for life in lives if life.layers], self.subject(lives), "bncheck.watch()")
        finally:
            self.folder.cleanup()

    def subject(self, lives: Sequence[Life]) -> str:
        return self.name or (type(self.model).__name__ if self.model is not None else lives[0].program if lives else "")

    def own(self, life: Life) -> Life:
        """Without layers of other models: those have a place in another tree."""
        if self.model is None or not hasattr(self.model, "named_modules"):
            return life
        from dataclasses import replace

        paths = {path for path, _ in self.model.named_modules()}
        layers = tuple(
            layer for layer in life.layers if layer.registered is not True or layer.name in paths or paths == {""}
        )
        return replace(life, layers=layers)

    # -- as a decorator -------------------------------------------------------------------------------------------

    def __call__(self, function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
        @functools.wraps(function)
        def watched(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
            seen = Watch(self.model, keep=self.keep, name=self.name or function.__name__)
            with seen:
                found = function(*args, **kwargs)
            self.result = seen.result
            for fault in seen.faults:
                warnings.warn(one_sentence(fault), BatchNormWarning, stacklevel=2)
            return found

        watched.watched = self  # type: ignore[attr-defined]
        return watched

    # -- what was found -------------------------------------------------------------------------------------------

    @property
    def seen(self) -> Result:
        if self.result is None:
            raise UsageError("Nothing was watched yet.", "Run the code inside: with bncheck.watch(model) as seen: …")
        return self.result

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.seen.findings

    @property
    def faults(self) -> tuple[Finding, ...]:
        return self.seen.faults

    @property
    def lives(self) -> tuple[Life, ...]:
        return self.seen.lives

    @property
    def headline(self) -> str:
        return self.seen.headline

    def report(self, folder: str | Path | None = None) -> Path:
        """As :meth:`Result.report`."""
        return self.seen.report(folder)

    def __str__(self) -> str:
        return str(self.result) if self.result is not None else "<bncheck: nothing was watched yet>"

    def __repr__(self) -> str:
        return repr(self.result) if self.result is not None else "<bncheck: nothing was watched yet>"

    def _repr_html_(self) -> str:
        return "" if self.result is None else self.result._repr_html_()


def watch(model: Any = None, *, keep: str = KEEP, name: str = "") -> Watch:
    """Watch a model (or, without one, every normalising layer of this process). UsageError where nothing can be."""
    return Watch(model, keep=keep, name=name)


def one_sentence(fault: Finding) -> str:
    """``BN401 mode-leak: … → …``."""
    fix = f" → {fault.advice}" if fault.advice else ""
    return f"{fault.code} {fault.cause}: {fault.title}{fix}"
