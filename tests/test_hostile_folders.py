"""Run folders from anywhere: whatever is done to one, every command that reads it ends in a report or in a sentence,
never in a traceback, and writes nothing outside of it."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_the_prompt import here
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from left_by_cells import cells_of, write_loose

EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
VALUES: tuple[Any, ...] = (
    None, True, -1, 10**30, "nan", "", "../../../../etc/passwd", "/etc/passwd", EVIL, "\x00", "\x1b]0;x\x07", [], {},
    [[]], "9" * 5000, 1e308,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run with a finding in it, played by the reference and a simulated convention."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "pyproject.toml").write_text("")
    words = ("run", "all-ones", "-t", "reference", "-t", "reference[batch_weight=0.9]", "--set", "program.repeat=3")
    done = here(*words, "--no-report", "-q", "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    played = folder / "run" / "cells"
    for name in cells_of(played / "reference"):  # of one target as loose files, of the other as they are
        write_loose(played / "reference" / name)
    (played / "reference" / "cells.tar").unlink()
    return folder / "run"


def invoke(*arguments: str) -> tuple[int, str]:
    """Exit code and what was said; anything but an exit is a failure of the test."""
    done = here(*arguments)
    return done.returncode, done.stdout + done.stderr


def test_what_never_ends_is_not_read(edited: Callable[[], Path], run: Path) -> None:
    """A device that has no end, and a pipe that nobody writes to, in the place of every file in turn."""
    names = [
        path.relative_to(run) for path in files(run) if path.suffix in (".json", ".jsonl", ".npz", ".tar", ".toml")
    ]
    some = {path.suffix + path.parent.name: path for path in names}.values()
    for k, name in enumerate(some):
        folder = edited()
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        survive(folder, run, (COMMANDS[k % 2 * 4],))
    folder = edited()
    (folder / "run.json").unlink()
    os.mkfifo(folder / "run.json")
    (told,) = survive(folder, run, COMMANDS[:1])
    assert "is no regular file" in told


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder that no command was told to write to."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("report", "RUN", "--format", "html", "--format", "csv", "--format", "junit", "--format", "summary", "-q"),
    ("report", "RUN", "--format", "plots", "--format", "sweep", "--format", "origins", "--format", "markdown", "-q"),
    ("repro", "RUN", "BN106", "--out", "OUT/kit"),
    ("plot", "RUN", "BN106", "-o", "OUT/x.svg"),
    ("compare", "RUN", "GOOD", "--no-report", "-q", "--fail-on", "never", "--out", "OUT/both"),
    ("baseline", "update", "RUN", "OUT/known.json"),
)  # fmt: skip


def survive(folder: Path, good: Path, commands: tuple[tuple[str, ...], ...] = COMMANDS) -> list[str]:
    """Read the folder with each command; returns what they said. The neighbours of the folder stay as they are."""
    out = folder.parent / "out"
    beside = folder.parent / "beside"
    before, told = everything(beside), []
    for command in commands:
        out.mkdir(exist_ok=True)
        words = {"RUN": str(folder), "GOOD": str(good)}
        code, said = invoke(*(words.get(word, word.replace("OUT", str(out))) for word in command))
        assert code in (0, 1, 2, 3), (command, code, said)
        assert "Traceback" not in said and "\x1b" not in said, said
        assert code != 2 or "bncheck: " in said or "Usage" in said or "Error" in said, (command, said)
        told.append(said)
        shutil.rmtree(out)
    page = folder / "index.html"
    if page.is_file() and not page.is_symlink():
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text and "<img" not in text
    assert everything(beside) == before
    return told


@pytest.fixture
def edited(run: Path, tmp_path: Path) -> Callable[[], Path]:
    """A fresh copy of the run, with a neighbour that nothing may touch."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "precious.txt").write_text("mine")

    def again() -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return Path(shutil.copytree(run, tmp_path / "run"))

    return again


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def paths_into(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(found for key, item in inner for found in paths_into(item, (*at, key)))]


def replaced(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    if not way:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[way[0]] = replaced(value[way[0]], way[1:], new)
    return copy


def sound(raw: bytes, suffix: str) -> bool:
    """True for a JSON document or an archive of arrays that can be read."""
    try:
        if suffix == ".json":
            json.loads(raw)
        elif suffix == ".npz":
            with np.load(io.BytesIO(raw), allow_pickle=False) as held:
                dict(held)
    except Exception:  # zipfile, zlib, json and NumPy each have errors of their own
        return False
    return suffix in (".json", ".npz")


def mutate(folder: Path, seed: int) -> str:
    """One random edit of one file; returns what it was."""
    rng = random.Random(seed)
    target = rng.choice(files(folder))
    name = target.relative_to(folder)
    kinds = ["cut", "flip", "empty", "gone", "noise", "link", "folder"]
    raw = target.read_bytes()
    if sound(raw, target.suffix):  # an edit before this one may have damaged it already
        kinds += ["value"] * 10 if target.suffix == ".json" else ["array"] * 4
    kind = rng.choice(kinds)
    if kind == "cut":
        target.write_bytes(raw[: rng.randrange(len(raw) + 1)])
    elif kind == "flip" and raw:
        place = rng.randrange(len(raw))
        target.write_bytes(raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(8))]) + raw[place + 1 :])
    elif kind in ("empty", "flip"):
        target.write_bytes(b"")
    elif kind == "noise":
        target.write_bytes(rng.randbytes(500))
    elif kind in ("gone", "link", "folder"):
        target.unlink()
        if kind == "link":
            target.symlink_to("../../beside/precious.txt" if rng.random() < 0.5 else "/dev/zero")
        elif kind == "folder":
            target.mkdir()
    elif kind == "array":
        with np.load(io.BytesIO(raw), allow_pickle=False) as held:
            arrays = dict(held)
        key = rng.choice(sorted(arrays))
        arrays[key] = rng.choice([
            np.zeros((0,)), np.zeros((3, 1, 2)), np.full((2, 2), np.nan), np.array("text"), np.arange(5) + 1j,
            np.full(arrays[key].shape, np.inf), arrays[key][..., :0], np.zeros((10_000, 3)),
        ])  # fmt: skip
        np.savez(target, **arrays)
        return f"{seed}: {kind} {key} of {name}"
    else:
        value = json.loads(raw)
        way, new = rng.choice(paths_into(value)), rng.choice(VALUES)
        target.write_text(json.dumps(replaced(value, way, new)))
        return f"{seed}: {'/'.join(map(str, way))} = {str(new)[:40]!r} in {name}"
    return f"{seed}: {kind} {name}"


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**31))
def test_one_edit_anywhere_ends_in_a_report_or_a_sentence(seed: int, edited: Callable[[], Path], run: Path) -> None:
    folder = edited()
    print(mutate(folder, seed))
    survive(folder, run, tuple(random.Random(seed).sample(COMMANDS, 2)))


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**31))
def test_many_edits_anywhere_end_in_a_report_or_a_sentence(seed: int, edited: Callable[[], Path], run: Path) -> None:
    folder = edited()
    for k in range(1 + seed % 3):
        print(mutate(folder, seed + k))
    survive(folder, run)


# ------------------------------------------------------------------------------------------------- named attacks


def traces(folder: Path) -> list[Path]:
    """A trace.npz for every cell; the loose ones are there, those of a tar come before it."""
    for tar in folder.rglob("cells.tar"):
        for name in cells_of(tar.parent):
            write_loose(tar.parent / name)
    return sorted(folder.rglob("trace.npz"))


def bomb(folder: Path) -> None:
    """An archive of 80 kB that declares 4 GB and holds 80 MB of zeros: a case's, and a probe's."""
    head = np.lib.format.magic(1, 0)
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100, 5000000), }".ljust(117) + b"\n"
    for path in {("probe" in str(path.relative_to(folder))): path for path in traces(folder)}.values():
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("bn/running_mean.npy", "w", force_zip64=True) as entry,
        ):
            entry.write(head + len(text).to_bytes(2, "little") + text)
            for _ in range(8):
                entry.write(bytes(2**20 * 10))


def promise(folder: Path) -> None:
    """A header of 80 bytes that promises an array of an exabyte."""
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000000), }".ljust(117) + b"\n"
    for path in traces(folder):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("bn/running_mean.npy", np.lib.format.magic(1, 0) + len(text).to_bytes(2, "little") + text)


def pickles(folder: Path) -> None:
    """Arrays that run code when they are unpickled."""

    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (os.system, (f"touch {folder.parent / 'beside' / 'pwned'}",))

    for path in traces(folder):
        np.savez(path, **{"bn/running_mean": np.array([Attack()], dtype=object)})


def many(folder: Path) -> None:
    for path in traces(folder)[:1]:
        with zipfile.ZipFile(path, "w") as archive:
            for k in range(70_000):
                archive.writestr(f"{k}.npy", b"")


def climbing_names(folder: Path) -> None:
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace('"name": "all-ones"', '"name": "../../beside"').replace(
        '"scenario": "all-ones"', '"scenario": "../../beside"'))  # fmt: skip


def markup(folder: Path) -> None:
    """HTML and terminal escapes wherever a person's words stand."""
    value = json.loads((folder / "run.json").read_text())
    for scenario in value["scenarios"]:
        scenario.update(title=EVIL, why=EVIL + "\x1b[2J", remarks=EVIL)
    for finding in value["findings"]:
        finding.update(title=EVIL, advice=EVIL, link="javascript:alert(1)", evidence={EVIL: EVIL})
    for target in value["targets"]:
        target.update(version=EVIL, python=EVIL, environment={EVIL: EVIL})
    value.update(command=EVIL, created=EVIL, version=EVIL)
    (folder / "run.json").write_text(json.dumps(value))


def deep(folder: Path) -> None:
    (folder / "run.json").write_text('{"format": 1, "version": ' + "[" * 200_000 + "]" * 200_000 + "}")


def foreign_gate(folder: Path) -> None:
    (folder / "gate.json").write_text(json.dumps({"format": 1, "fail_on": EVIL, "judged": [
        {"charge": {"kind": EVIL, "code": EVIL, "cause": EVIL, "scenario": EVIL, "case": EVIL, "sides": [[EVIL]],
                    "names": [EVIL], "sentence": EVIL}, "standing": "fails", "note": EVIL}]}))  # fmt: skip


@pytest.mark.parametrize(
    "attack", [bomb, promise, pickles, many, climbing_names, markup, deep, foreign_gate], ids=lambda each: each.__name__
)
def test_a_named_attack_harms_nothing(
    attack: Callable[[Path], None], edited: Callable[[], Path], run: Path, tmp_path: Path
) -> None:
    import resource

    folder = edited()
    attack(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    survive(folder, run, COMMANDS[::4] if attack is many else COMMANDS)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert grown < 1500, f"{grown} MiB"
    assert not (tmp_path / "beside" / "pwned").exists()


WRITTEN = ("index.html", "index.html.part", "run.json.part", "drifts.csv", "records.jsonl", "cases.jsonl.part",
           "cells/reference/cells.tar", "cells/reference/job.json.part", "cells/reference/progress.txt")  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_links_that_lead_out_are_not_followed(name: str, edited: Callable[[], Path], run: Path, tmp_path: Path) -> None:
    """Neither by what reads a run folder nor by what writes into it, appends to it or cuts half an entry off."""
    folder = edited()
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "beside" / "precious.txt")
    told = survive(folder, run, (*COMMANDS, ("run", "--resume", "RUN", "--no-report", "-q")))
    assert all("is a link; a run folder has none" in said for said in told)
    assert (tmp_path / "beside" / "precious.txt").read_text() == "mine"


def test_a_folder_that_lies_elsewhere_is_not_written_to(edited: Callable[[], Path], run: Path, tmp_path: Path) -> None:
    folder = edited()
    shutil.rmtree(folder / "cells" / "reference")
    (folder / "cells" / "reference").symlink_to(tmp_path / "beside")
    survive(folder, run, (("run", "--resume", "RUN", "--no-report", "-q"),))
