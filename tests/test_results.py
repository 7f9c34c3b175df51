"""run.json and recorded arrays: what is written comes back, and what was tampered with is refused in a sentence."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import literal_run
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.errors import RunFolderError
from bncheck.run_folder.arrays import Archive, stored_entries
from bncheck.run_folder.cell import folder_of, replay_of, trace_of
from bncheck.run_folder.folder import check_slug
from bncheck.run_folder.results import CaseResult, CellResult, TargetResult, dump, plain, read_results, write_results
from bncheck.worker.archive import write_npz

CELL = CellResult("all-ones", "forward", "torch", "torch", "ok")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    literal_run.write_run(tmp_path / "run")
    return tmp_path / "run"


def edit(run: Path, change: Any) -> None:
    value = json.loads((run / "run.json").read_text())
    change(value)
    (run / "run.json").write_text(json.dumps(value))


# ------------------------------------------------------------------------------------------------------ run.json


def test_what_is_written_comes_back(run: Path) -> None:
    written, found = literal_run.results(), read_results(run)
    # NaN is not equal to itself, so the JSON forms are compared.
    assert plain(found) == plain(written)
    assert found.targets == written.targets and found.scenarios == written.scenarios


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.1 + 0.2, 5e-324])
def test_every_float_comes_back(tmp_path: Path, value: float) -> None:
    drift = literal_run.drift("forward", "torch", "running_mean", max_abs=value)
    write_results(literal_run.results(drifts=(drift,)), tmp_path)
    found = read_results(tmp_path).drifts[0].max_abs
    assert found == value or (math.isnan(found) and math.isnan(value))


def test_the_file_is_strict_json(run: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    value = json.loads((run / "run.json").read_text(), parse_constant=refuse)
    assert value["format"] == 1
    assert list(value["drifts"][0])[:4] == ["scenario", "case", "a", "b"]


def test_numpy_numbers_are_written_as_numbers() -> None:
    assert plain({"a": np.float32(0.5), "b": np.int64(3), "c": np.array([1.0, np.nan])}) == {
        "a": 0.5, "b": 3, "c": [1.0, "nan"],
    }  # fmt: skip


numbers = st.floats() | st.integers() | st.none() | st.booleans() | st.text(max_size=3)
leaves = numbers | st.builds(np.float32, st.floats(width=32)) | st.builds(np.int64, st.integers(-9, 9))
nested = st.recursive(leaves, lambda inner: st.dictionaries(st.text(max_size=2), inner) | st.tuples(inner, inner))


@given(values=st.dictionaries(st.text(max_size=2), nested, max_size=3), evidence=nested)
def test_what_the_encoder_writes_is_what_plain_data_is(values: dict[str, Any], evidence: Any) -> None:
    """Most records go to the encoder as they are; those with NaN or numbers of NumPy in them must come out alike."""
    finding = literal_run.finding(evidence={"x": evidence})
    for value in (values, finding, TargetResult("torch", "torch", "torch", environment=values)):
        assert dump(value) == json.dumps(plain(value), allow_nan=False, ensure_ascii=False)


def test_a_key_from_the_future_is_left_alone(run: Path) -> None:
    edit(run, lambda value: (value.update(weather="fine"), value["cells"][0].update(mood="good")))
    assert read_results(run).version == "0.1.0"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.update(format=2), "install the newer bncheck"),
        (lambda value: value.update(format="<b>"), "reads format 1"),
        (lambda value: value.pop("cells"), "cells: Field required"),
        (lambda value: value["drifts"][0].update(mean_abs="much"), "drifts.0.mean_abs"),
        (lambda value: value["findings"][0].update(kind="bug"), "findings.0.kind"),
        (lambda value: value["cells"].append(value["cells"][0]), "one cell is there twice"),
        (lambda value: value["cells"][0].update(slug="../../etc"), "not in `targets`"),
        (lambda value: value["cells"][0].update(case="gone"), "not in `scenarios`"),
    ],
)  # fmt: skip
def test_an_edited_file_is_named_with_what_is_wrong(run: Path, change: Any, said: str) -> None:
    edit(run, change)
    with pytest.raises(RunFolderError) as caught:
        read_results(run)
    assert said in str(caught.value) and "run.json" in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff\xfe", b'{"format": 1', b"[" * 100_000, b'{"format": NaN}'])
def test_what_is_no_run_json_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "run.json").write_bytes(raw)
    with pytest.raises(RunFolderError):
        read_results(tmp_path)


def test_a_file_cut_anywhere_is_refused(run: Path) -> None:
    raw = (run / "run.json").read_bytes()
    for length in range(0, len(raw) - 2, 997):
        (run / "run.json").write_bytes(raw[:length])
        with pytest.raises(RunFolderError):
            read_results(run)


def test_a_folder_without_a_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"it has no run\.json"):
        read_results(tmp_path)
    with pytest.raises(RunFolderError, match=r"it has no run\.json"):
        read_results(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------------------ arrays


def test_a_trace_is_read_where_it_lies(run: Path) -> None:
    trace = trace_of(run, CELL, ("train_forward",) * 100)
    assert trace is not None and trace.layers == ("bn",)
    mean = trace.get("bn", "running_mean")
    assert mean is not None and mean.shape == (101, 3)
    assert mean[1] == pytest.approx([0.1] * 3) and mean[2] == pytest.approx([0.19] * 3)


def test_how_events_went_comes_from_the_cells_own_result(run: Path) -> None:
    trace = trace_of(run, CellResult("one-value", "base", "torch", "torch", "raised"), ("train_forward", "backward"))
    assert trace is not None
    assert [event.status for event in trace.events] == ["raised", "ok"]
    assert trace.events[0].error_type == "ValueError"


def test_a_cell_without_a_recording_has_no_trace(run: Path) -> None:
    missing = replace(CELL, slug="torch-cuda")
    assert trace_of(run, missing) is None
    assert replay_of(run, missing) == {}


def test_a_replay_is_there_only_where_a_convention_was_measured(run: Path) -> None:
    assert replay_of(run, CELL) == {}
    assert set(replay_of(run, replace(CELL, target="mxnet", slug="mxnet"))) == {"bn/running_mean", "bn/running_var"}


@pytest.mark.parametrize(
    "word", ["..", ".", "../torch", "/etc", "a/b", "a\\b", "", "a\0b", "a\n", "é", "x" * 300, "a b"]
)
@pytest.mark.parametrize("part", ["slug", "scenario", "case"])
def test_no_name_leaves_the_run_folder(tmp_path: Path, part: str, word: str) -> None:
    with pytest.raises(RunFolderError, match="not a name that bncheck gives"):
        folder_of(tmp_path, replace(CELL, **{part: word}))


@given(st.text(max_size=20))
def test_a_composed_path_is_always_below_cells(word: str) -> None:
    base = Path("/run")
    try:
        found = folder_of(base, replace(CELL, slug=word))
    except RunFolderError:
        return
    assert found.resolve().parts[:3] == ("/", "run", "cells") and len(found.resolve().parts) == 5


def test_a_link_out_of_the_run_folder_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "cells" / "torch").rename(tmp_path / "elsewhere")
    (run / "cells" / "torch").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="leaves the run folder"):
        trace_of(run, CELL)


def archive(entries: dict[str, bytes]) -> Archive:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, raw in entries.items():
            target.writestr(name, raw)
    return Archive(Path("trace.npz"), buffer.getvalue())


@pytest.mark.parametrize("place", [6, 8, 28], ids=["flags", "method", "extra field"])
def test_only_an_archive_of_ours_is_read_in_place(tmp_path: Path, place: int) -> None:
    """One changed word in the header of an entry, and it is somebody else's: zipfile judges it."""
    write_npz(str(tmp_path / "trace.npz"), {"bn/n": np.ones(3)})
    raw = bytearray((tmp_path / "trace.npz").read_bytes())
    assert stored_entries(bytes(raw)) is not None
    raw[place] ^= 8
    assert stored_entries(bytes(raw)) is None


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


class Bomb:
    """Would tell on being unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was loaded",))


def test_a_pickled_array_is_never_loaded() -> None:
    hostile = npy(np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(RunFolderError, match="pickled"):
        archive({"bn/n.npy": hostile})["bn/n"]
    with pytest.raises(RunFolderError):
        archive({"bn/n.npy": pickle.dumps(Bomb())})["bn/n"]


def test_a_header_that_promises_more_than_is_there_allocates_nothing() -> None:
    honest = npy(np.zeros((2, 3)))
    giant = honest.replace(b"(2, 3), }          ", b"(999999999999, 3),}", 1)
    assert len(giant) == len(honest) and giant != honest
    with pytest.raises(RunFolderError, match="its data has another size"):
        archive({"bn/n.npy": giant})["bn/n"]


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bncheck.run_folder.arrays.MAX_ARCHIVE", 100_000)
    with pytest.raises(RunFolderError, match="more than bncheck reads"):
        archive({"bn/n.npy": bytes(100_001)})


@pytest.mark.parametrize("cut", [0, 10, 100, 400])
def test_a_truncated_archive_is_named(run: Path, cut: int) -> None:
    path = run / "cells" / "torch" / "all-ones--forward" / "trace.npz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RunFolderError, match=r"trace\.npz is damaged"):
        trace_of(run, CELL)


def test_a_flipped_byte_is_noticed_when_its_array_is_read(run: Path) -> None:
    path = run / "cells" / "torch" / "all-ones--forward" / "trace.npz"
    raw = bytearray(path.read_bytes())
    raw[400] ^= 0xFF
    path.write_bytes(bytes(raw))
    trace = trace_of(run, CELL)
    assert trace is not None
    with pytest.raises(RunFolderError, match="damaged"):
        dict(trace.arrays)


# ------------------------------------------------------------------------------------------------------- steps


def test_steps_are_repeats_of_the_program() -> None:
    case = CaseResult("c", ops=("train_forward", "backward") * 3, steps=(1, 3, 5))
    assert [case.step_of(event) for event in (-1, 0, 1, 2, 5)] == [0, 1, 1, 2, 3]
    assert case.rows(7) == [0, 2, 4, 6]


def test_without_steps_every_event_is_one() -> None:
    case = CaseResult("c", ops=("train_forward",) * 3)
    assert [case.step_of(event) for event in (-1, 0, 2)] == [0, 1, 3]
    assert case.rows(4) == [0, 1, 2, 3]


def test_one_pattern_names_what_lies_in_a_run() -> None:
    given = ("torch-2.13.0-cuda", "all-ones--base", "--odd--n-2", "graph-bn@1-1.dot", "model-1.onnx.data")
    assert [check_slug(name) for name in given] == list(given)
    for name in (".hidden", "..", "a/b", "a\n", "", "x" * 201):
        with pytest.raises(RunFolderError, match="not a name that bncheck gives"):
            check_slug(name)
