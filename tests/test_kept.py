"""Conventions kept per environment: what a later run takes of an earlier one is what it would have measured itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import date
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import literal_run
import pytest
from at_the_prompt import bncheck, command, environment, here

from bncheck.environments.backend_file import BACKENDS_FOLDER
from bncheck.environments.pythons import Ready
from bncheck.playing import kept
from bncheck.playing.job import Limits
from bncheck.playing.jobs import Options
from bncheck.playing.kept import Shelf, keep, lay_out, read, shelves
from bncheck.playing.plan_file import read_plan
from bncheck.playing.seats import Seat
from bncheck.report.conventions import kept as sentences
from bncheck.run_folder.cell import CellRecord, write_record
from bncheck.run_folder.origin import measured_on
from bncheck.run_folder.results import Results, TargetResult, plain, read_results
from bncheck.worker.archive import tar_entry

REFERENCES = ("-t", "reference", "-t", "reference[mxnet]")
DAY = date(2026, 11, 28)
REFERENCE = TargetResult(name="reference", slug="reference", backend="reference")


def said(results: Results) -> dict[str, Any]:
    """All that a run found, but for its date, its durations and the word of where its probes come from."""
    found = plain(results)
    for target in found["targets"]:
        target.update(measured_on="", environment={})
    for cell in found["cells"]:
        cell["seconds"] = 0
    return {**found, "created": "", "command": ""}


def played(run: Path) -> set[str]:
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    return {line["cell"].partition("--")[0] for line in lines}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run that keeps its conventions and one that takes them, both with reports."""
    folder = tmp_path_factory.mktemp("kept")
    for name in ("first", "second"):
        done = here("run", "events", *REFERENCES, "--out", name, cwd=folder, BNCHECK_CONVENTIONS=str(folder / "kept"))
        assert done.returncode == 0, done.stderr
        (folder / f"{name}.txt").write_text(done.stdout)
    return folder


def test_a_second_run_takes_the_probes_of_the_first_and_finds_the_same(folder: Path) -> None:
    first, second = folder / "first", folder / "second"
    assert played(first) == {"events", "probe", "probe-small", "probe-defaults"}
    assert played(second) == {"events"}
    assert said(read_results(second)) == said(read_results(first))
    assert (second / "gate.json").read_text() == (first / "gate.json").read_text()
    assert (second / "drifts.csv").read_text() == (first / "drifts.csv").read_text()
    assert (second / "conventions.csv").exists() is (first / "conventions.csv").exists()


def test_reports_say_the_day_on_which_they_were_measured(folder: Path) -> None:
    (day,) = {target.measured_on for target in read_results(folder / "second").targets}
    sentence = f"The conventions of reference and reference[mxnet] were measured on {day}; --fresh measures them again."
    assert " ".join((folder / "second.txt").read_text().split()).count(sentence) == 1
    assert sentence in (folder / "second" / "index.html").read_text()
    assert "were measured on" not in (folder / "first.txt").read_text()
    assert "were measured on" not in (folder / "first" / "index.html").read_text()


def test_a_run_with_kept_conventions_needs_the_cache_no_more(folder: Path, tmp_path: Path) -> None:
    """Elsewhere, where nothing is kept: reports, comparisons and a resumed run come from the folder alone."""
    for name in ("first", "second"):
        shutil.copytree(folder / name, tmp_path / name)
    before = (tmp_path / "second" / "index.html").read_text()
    assert here("report", "second", "--format", "html", cwd=tmp_path).returncode == 0
    assert (tmp_path / "second" / "index.html").read_text() == before
    (tmp_path / "second" / "run.json").unlink()
    assert here("run", "--resume", "second", "-q", "--no-report", cwd=tmp_path).returncode == 0
    resumed = plain(read_results(tmp_path / "second"))
    assert resumed == plain(read_results(folder / "second"))
    done = here("compare", "first", "second", "--out", "both", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    both = read_results(tmp_path / "both")
    assert {item.relation for item in both.drifts} == {item.relation for item in read_results(folder / "first").drifts}


def test_fresh_measures_again_and_keeps_what_it_measured(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "kept"
    shutil.copytree(folder / "kept", place)
    (path,) = place.glob("reference/reference-????????????????.tar")
    content = path.read_bytes()
    path.write_bytes(b"")
    done = here("conventions", "-t", "reference", "--fresh", "-q", "--out", "run", cwd=tmp_path,
                BNCHECK_CONVENTIONS=str(place))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert played(tmp_path / "run") == {"probe", "probe-small", "probe-defaults"}
    assert [target.measured_on for target in read_results(tmp_path / "run").targets] == [""]
    assert path.read_bytes()[:512] and len(path.read_bytes()) == pytest.approx(len(content), rel=0.1)
    # And now that they are there, the question is answered without any process.
    done = here("conventions", "-t", "reference", "-q", "--out", "again", cwd=tmp_path, BNCHECK_CONVENTIONS=str(place))
    assert done.returncode == 0, done.stderr
    assert played(tmp_path / "again") == set()
    assert said(read_results(tmp_path / "again")) == said(read_results(tmp_path / "run"))
    assert not (tmp_path / "again" / "cells" / "reference" / "job.json").exists()


def test_a_resumed_run_is_not_measured_anew(folder: Path) -> None:
    done = here("run", "--resume", "first", "--fresh", cwd=folder)
    assert done.returncode == 2
    assert "--resume goes on with what that run has measured." in done.stderr


# ------------------------------------------------------------------------------- what is kept, and for whom


def shelf_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """That of the reference, as the run "first" saw it."""
    monkeypatch.setenv("BNCHECK_CONVENTIONS", str(folder / "kept"))
    (path,) = (folder / "kept").glob("reference/reference-????????????????.tar")
    size = int(path.read_bytes()[124:135], 8)
    head = json.loads(path.read_bytes()[512 : 512 + size])
    return Shelf(path, head["belongs"], tuple(head["belongs"]["cells"]))


@pytest.fixture
def shelf(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    found = shelf_of(folder, monkeypatch)
    return replace(found, path=Path(shutil.copyfile(found.path, tmp_path / found.path.name)))


def test_what_is_kept_can_be_laid_out(shelf: Shelf, tmp_path: Path) -> None:
    assert lay_out(tmp_path, "reference", shelf, whole=True)
    assert measured_on(tmp_path / "cells" / "reference") != ""
    assert (tmp_path / "cells" / "reference" / "environment.json").exists()


def other_head(raw: bytes, **changed: Any) -> bytes:
    size = int(raw[124:135], 8)
    head = json.loads(raw[512 : 512 + size])
    return tar_entry("kept.json", json.dumps({**head, **changed}).encode()) + raw[512 + size + -size % 512 :]


def with_cell(raw: bytes, name: str) -> bytes:
    """A whole file that says it holds another cell's entry too: everything about it fits but whose it is."""
    entry = tar_entry(name, b"{}")
    size = int(raw[124:135], 8)
    cells = raw[512 + size + -size % 512 :] + entry
    return other_head(raw + entry, size=len(cells), sha256=kept.digest(cells))


DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "cut off": lambda raw: raw[: len(raw) // 2],
    "cut off in its head": lambda raw: raw[:600],
    "one bit of a trace": lambda raw: raw[:-5000] + bytes([raw[-5000] ^ 1]) + raw[-4999:],
    "one bit of its head": lambda raw: raw[:700] + bytes([raw[700] ^ 1]) + raw[701:],
    "something behind it": lambda raw: raw + b"\0" * 512,
    "a day that is none": lambda raw: other_head(raw, measured="<b>today</b>"),
    "a day that no year has": lambda raw: other_head(raw, measured="2026-13-99"),
    "a day in other digits": lambda raw: other_head(raw, measured="\u0662\u0660\u0662\u0666-11-28"),
    "no day": lambda raw: other_head(raw, measured=None),
    "numbers of 5,000 digits": lambda raw: other_head(raw, size="9" * 10).replace(b'"9999999999"', b"9" * 12),
    "no environment": lambda raw: other_head(raw, environment=[]),
    "another machine's": lambda raw: other_head(raw, belongs={}),
    "another cell in it": lambda raw: with_cell(raw, "events--ff/result.json"),
    "a name that leaves the folder": lambda raw: with_cell(raw, "../../run.json"),
    "not a tar": lambda raw: b"{}" * 10_000,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_foreign_file_is_not_used(damage: Callable[[bytes], bytes], shelf: Shelf, tmp_path: Path) -> None:
    assert read(shelf) is not None
    shelf.path.write_bytes(damage(shelf.path.read_bytes()))
    assert not lay_out(tmp_path, "reference", shelf, whole=True)
    assert not (tmp_path / "cells" / "reference" / "cells.tar").exists()


def test_a_folder_or_a_file_of_gigabytes_in_its_place_is_not_used(shelf: Shelf, tmp_path: Path) -> None:
    with shelf.path.open("r+b") as handle:
        handle.truncate(kept.LARGEST + 1)
    assert read(shelf) is None
    shelf.path.unlink()
    shelf.path.mkdir()
    assert read(shelf) is None
    assert not keep(tmp_path, "reference", shelf, DAY)
    shelf.path.rmdir()
    os.mkfifo(shelf.path)
    assert read(shelf) is None


def test_cells_that_say_nothing_sound_are_not_used_whatever_their_hash(shelf: Shelf, tmp_path: Path) -> None:
    raw = shelf.path.read_bytes()
    cells = b"".join(tar_entry(f"{cell}/result.json", b'{"protocol": 1, "outcome": "fine"}') for cell in shelf.cells)
    size = int(raw[124:135], 8)
    head = other_head(raw[: 512 + size + -size % 512], size=len(cells), sha256=kept.digest(cells))
    shelf.path.write_bytes(head + cells)
    assert read(shelf) is not None
    assert not lay_out(tmp_path, "reference", shelf, whole=True)


def test_a_probe_that_came_to_no_end_is_not_kept(folder: Path, shelf: Shelf, tmp_path: Path) -> None:
    shutil.copytree(folder / "first", tmp_path / "run")
    shelf = replace(shelf, path=tmp_path / "kept" / "reference-0123456789abcdef.tar")
    assert keep(tmp_path / "run", "reference", shelf, DAY)
    assert read(shelf) is not None
    shelf.path.unlink()
    crashed = tmp_path / "run" / "cells" / "reference" / shelf.cells[3]
    write_record(crashed, CellRecord("crashed", error_type="SIGSEGV", error="the process was killed by SIGSEGV"))
    assert not keep(tmp_path / "run", "reference", shelf, DAY)
    assert list(shelf.path.parent.iterdir()) == []


def test_whoever_reads_while_others_write_reads_a_whole_file(folder: Path, shelf: Shelf, tmp_path: Path) -> None:
    shelf = replace(shelf, path=tmp_path / "kept" / "reference-0123456789abcdef.tar")
    assert keep(folder / "first", "reference", shelf, DAY)
    writers = [
        Thread(target=lambda: [keep(folder / "first", "reference", shelf, DAY) for _ in range(8)]) for _ in "abc"
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert read(shelf) is not None
        time.sleep(0.001)  # the writers wait for the disk, however long that takes
    assert [path.name for path in shelf.path.parent.iterdir()] == [shelf.path.name]


def test_where_no_folder_can_be_made_nothing_is_kept(folder: Path, shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    for place in (
        tmp_path / "cache" / "reference" / "reference-0123456789abcdef.tar",
        tmp_path / ("a" * 300) / "x.tar",
    ):
        assert keep(folder / "first", "reference", replace(shelf, path=place), DAY) == ""


def test_few_files_of_a_target_stay(shelf: Shelf, folder: Path, tmp_path: Path) -> None:
    for number in range(kept.MOST_KEPT + 3):
        one = replace(shelf, path=tmp_path / "kept" / f"reference-{number:016x}.tar")
        assert keep(folder / "first", "reference", one, DAY)
    assert len(list((tmp_path / "kept").iterdir())) == kept.MOST_KEPT
    assert read(one) is not None


def test_what_was_measured_in_an_environment_goes_with_it(
    shelf: Shelf, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNCHECK_CONVENTIONS", str(tmp_path / "kept"))
    for name in ("torch-2.13.0-0123456789", "reference"):
        place = tmp_path / "kept" / name / "torch-0123456789abcdef.tar"
        assert keep(folder / "first", "reference", replace(shelf, path=place), DAY)
    kept.forget("torch-2.13.0-0123456789")
    kept.forget("torch-2.13.0-0123456789")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["reference"]


def test_where_cells_were_damaged_or_played_again_no_day_is_said(shelf: Shelf, tmp_path: Path) -> None:
    place = tmp_path / "cells" / "reference"
    assert measured_on(place) == ""
    lay_out(tmp_path, "reference", shelf, whole=False)
    day = measured_on(place)
    content = (place / "cells.tar").read_bytes()
    (place / "cells.tar").write_bytes(content + b"more")  # what the run itself has played
    assert measured_on(place) == day
    (place / "cells.tar").write_bytes(content[:5000] + b"?" + content[5001:])
    assert measured_on(place) == ""
    (place / "origin.json").write_text('{"measured": "today", "size": 5, "sha256": ""}')
    assert measured_on(place) == ""


def key(folder: Path, seat: Seat, place: Ready | None, options: Options = Options()) -> str:
    found = shelves(read_plan(folder / "first"), [seat], {} if place is None else {"reference": place}, options)
    return found["reference"].path.name if found else ""


def test_what_cells_depend_on_is_part_of_the_key(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNCHECK_CONVENTIONS", str(folder / "kept"))
    seat = Seat(REFERENCE, BACKENDS_FOLDER.resolve() / "reference.py", Path("python"))
    place = Ready(Path("python"), "", "current interpreter")
    same = key(folder, seat, place)
    assert same != ""
    assert key(folder, seat, place) == same
    with monkeypatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        assert key(folder, seat, place) != same
    others = [
        key(folder, replace(seat, result=replace(REFERENCE, variant="mxnet", slug="reference")), place),
        key(folder, seat, replace(place, python=Path("python3"))),
        key(folder, seat, replace(place, version="2")),
        key(folder, seat, place, Options(isolate=True)),
        key(folder, seat, place, Options(limits=Limits(memory=2**30))),
    ]
    assert len({same, *others}) == 6


def test_another_source_of_bncheck_is_another_key(tmp_path: Path) -> None:
    for name in ("worker/backends", "scenario_files", "playing"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "scenario.py").write_text("OPS = ()")
    (tmp_path / "worker" / "backends" / "torch.py").write_text("eps = 1e-5")
    before = kept.sources(tmp_path)
    (tmp_path / "worker" / "backends" / "torch.py").write_text("eps = 1e-3")
    kept.sources.cache_clear()
    after = kept.sources(tmp_path)
    kept.sources.cache_clear()
    (tmp_path / "report.py").write_text("decides nothing that a cell records")
    assert before != after == kept.sources(tmp_path)


def test_what_is_not_bnchecks_own_is_measured_every_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend file or a Python of the user's, a framework in the interpreter that bncheck runs on, a GPU."""
    monkeypatch.setenv("BNCHECK_CONVENTIONS", str(folder / "kept"))
    shipped = BACKENDS_FOLDER.resolve()
    seat, place = Seat(REFERENCE, shipped / "reference.py", Path("python")), Ready(Path("python"), "", "--python")
    here = replace(place, origin="current interpreter")
    torch = replace(REFERENCE, backend="torch")
    assert key(folder, seat, here) != ""
    assert key(folder, replace(seat, backend_path=folder / "reference.py"), here) == ""
    assert key(folder, replace(seat, result=replace(REFERENCE, device="cuda")), here) == ""
    assert key(folder, Seat(torch, shipped / "torch.py", Path("python")), place) == ""
    assert key(folder, Seat(torch, shipped / "torch.py", Path("python")), here) == ""
    assert key(folder, seat, None) == ""
    monkeypatch.setenv("BNCHECK_CONVENTIONS", "")
    assert key(folder, seat, here) == ""


# ------------------------------------------------------------------------------------------------ telling


def test_a_sentence_for_each_day() -> None:
    run = literal_run.results()
    assert sentences(run) == []
    days = {"reference": "2026-11-27", "torch": "2026-11-28", "mxnet": "2026-11-27"}
    told = replace(run, targets=tuple(replace(each, measured_on=days.get(each.name, "")) for each in run.targets))
    known = {item.target for item in told.conventions}
    assert known >= {"torch", "mxnet"}
    assert sentences(told)[-1] == "The conventions of torch were measured on 2026-11-28; --fresh measures them again."
    assert len(sentences(told)) == 2


def spoil(path: Path, how: int) -> None:
    if how == 0:
        path.unlink()
    else:
        os.truncate(path, 5000 * (how - 1))


@pytest.mark.slow
def test_hosts_that_race_while_somebody_damages_what_is_kept_find_the_same(folder: Path, tmp_path: Path) -> None:
    """Two runs at a time keep and take the same files, which are cut, emptied, removed and replaced all the while."""
    place, over = tmp_path / "kept", Event()
    before = said(read_results(folder / "first"))

    def damage() -> None:
        for number in count():
            if over.wait(0.05):
                return
            for path in place.glob("*/*.tar*"):
                with suppress(OSError):
                    spoil(path, number % 3)

    vandal = Thread(target=damage)
    vandal.start()
    try:
        for turn in range(4):
            runs = [tmp_path / f"{turn}{letter}" for letter in "ab"]
            words = [command("run", "events", *REFERENCES, "--no-report", "-q", "--out", str(run)) for run in runs]
            known = environment(BNCHECK_CONVENTIONS=str(place))
            hosts = [subprocess.Popen(each, stderr=subprocess.PIPE, env=known) for each in words]
            assert [host.communicate()[1] for host in hosts] == [b"", b""]
            assert [host.returncode for host in hosts] == [0, 0]
            assert all(said(read_results(run)) == before for run in runs)
    finally:
        over.set()
        vandal.join()


@pytest.mark.slow
@pytest.mark.parametrize("targets", [("torch", "mxnet"), ("keras", "paddle")])
def test_kept_and_fresh_conventions_give_equal_results_on_frameworks(targets: tuple[str, ...], tmp_path: Path) -> None:
    words = ["run", *(word for name in targets for word in ("-t", name)), "-t", "reference", "--no-report", "-q"]
    for name, more in (("first", ()), ("kept", ()), ("fresh", ("--fresh",))):
        done = bncheck(*words, *more, "--out", name, cwd=tmp_path, BNCHECK_CONVENTIONS=str(tmp_path / "conventions"))
        assert done.returncode in (0, 1), done.stderr
    found = {name: read_results(tmp_path / name) for name in ("first", "kept", "fresh")}
    assert all(target.measured_on for target in found["kept"].targets)
    assert said(found["first"]) == said(found["kept"]) == said(found["fresh"])
    assert len({(tmp_path / name / "gate.json").read_text() for name in found}) == 1
