"""The live line at the foot of a terminal: it keeps to the terminal's width, and its count always shows."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bncheck.commands import progress
from bncheck.playing.progress import Progress


@pytest.mark.parametrize(
    ("doings", "room", "said"),
    [
        (["torch frozen--whole"], 30, "torch frozen--whole"),
        (["torch frozen--whole", "mxnet events--FB"], 40, "torch frozen--whole · mxnet events--FB"),
        (["torch frozen--whole", "mxnet events--FB", "keras x"], 32, "torch frozen--whole and 2 more"),
        (["torch==1.13.1 batch-invariance--samples-16-of-64"], 30, "torch==1.13.1 batch…"),
        (["torch batch-invariance--samples-16-of-64"], 30, "torch batch-invariance…"),
        (["keras[torch] batch-invariance", "mxnet y"], 26, "keras[torch]… and 1 more"),
        (["nothingtocutat" * 3], 20, "nothingtocutatnothi…"),
        ([], 30, ""),
        (["torch frozen"], 0, ""),
    ],
)
def test_what_is_being_done_fits_and_is_cut_between_words(doings: list[str], room: int, said: str) -> None:
    assert progress.fitted(doings, room) == said
    assert len(said) <= room


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_count_shows_whatever_the_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "console", lambda stderr: Console(file=stream, width=width, force_terminal=True))
    live = progress.Live()
    with live:
        live.expect(1450)
        for number in range(5):
            cell = f"batch-invariance--samples-{number}-of-sixty-four"
            live.cell(Progress(target=f"torch[compile]==1.1{number}.0", kind="started", cell=cell))
            live.cell(Progress(target="mxnet", kind="finished", cell=cell))
    shown = Console(file=io.StringIO(), width=width)
    shown.print(live.bars.get_renderable())
    (line,) = [line for line in shown.file.getvalue().splitlines() if line.strip()]  # type: ignore[attr-defined]
    assert "5/1450" in line
    assert "[compile]" in line or width < 60
