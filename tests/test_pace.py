"""Which target starts first: what is over at once, what nobody knows, then the longest."""

from __future__ import annotations

from pathlib import Path

import pytest

from bncheck.playing.job import Job
from bncheck.playing.pace import Pace, Stopwatch, longest_first, pace_file, read_paces
from bncheck.playing.progress import Progress

CELLS = ("one", "two")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BNCHECK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def job(name: str) -> Job:
    return Job(name, Path(name), Path("python"), Path("backend.py"), "", "cpu", CELLS)


def test_the_short_starts_first_then_the_unknown_then_the_longest() -> None:
    paces = {"short": Pace(0.1, 0.1), "quick": Pace(1.5, 0.0), "slow": Pace(1.0, 10.0), "middle": Pace(5.0, 0.1)}
    jobs = [job(name) for name in ("quick", "new", "slow", "newer", "short", "middle")]
    assert [each.target for each in longest_first(jobs, paces)] == ["short", "new", "newer", "slow", "middle", "quick"]


def hear(watch: Stopwatch, *kinds: str) -> None:
    for kind in kinds:
        watch(Progress("torch", kind))


def test_a_run_is_remembered_beside_what_was_known() -> None:
    heard: list[Progress] = []
    clock = iter([10.0, 12.0, 13.0, 13.0, 16.0, 16.0])
    watch = Stopwatch(heard.append, lambda: next(clock))
    hear(watch, "importing", "started", "finished", "started", "finished", "ended")
    assert len(heard) == 6
    watch.remember()
    assert read_paces() == {"torch": Pace(2.0, 2.0)}
    other = Stopwatch(heard.append)
    other.paces["mxnet"] = Pace(1.0, 0.25)
    other.remember()
    assert read_paces() == {"torch": Pace(2.0, 2.0), "mxnet": Pace(1.0, 0.25)}


def test_an_unavailable_target_leaves_nothing() -> None:
    watch = Stopwatch(lambda progress: None)
    hear(watch, "importing", "unavailable", "ended")
    assert watch.paces == {}


@pytest.mark.parametrize("text", ["", "[]", '{"torch": 3}', '{"torch": ["a", "b"]}', "null"])
def test_a_damaged_memory_is_none(text: str) -> None:
    pace_file().parent.mkdir(parents=True)
    pace_file().write_text(text)
    assert read_paces() == {}


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    watch = Stopwatch(lambda progress: None)
    watch.paces["torch"] = Pace(1.0, 1.0)
    watch.remember()
    assert read_paces() == {}
