"""Files of cells: appended, found again at any length, damaged, and what lies loose before what is packed."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from left_by_cells import cells_of, entries_of

from bncheck.errors import RunFolderError
from bncheck.run_folder.cell_files import Tar, copy_cell_files, mend, read_cell_file
from bncheck.worker.archive import append_entries

MOST = 1000


def look(path: Path) -> Tar:
    tar = Tar(path)
    tar.look()
    return tar


WORDS = st.text("abzé._-", min_size=1, max_size=150)


@given(entries=st.lists(st.tuples(WORDS.map("{}/trace.npz".format), st.binary(max_size=1100)), max_size=5))
def test_what_was_appended_is_read_back_and_other_programs_read_it_too(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("tar") / "cells.tar"
    tar = Tar(path)
    for entry in entries:
        append_entries(str(path), [entry])
        tar.look()
    expected = dict(entries)
    assert {name: tar.read(name, 2000) for name in expected} == expected
    assert not tar.damage
    if entries:
        with tarfile.open(path) as theirs:
            found = {each.name: theirs.extractfile(each) for each in theirs.getmembers()}
            assert {name: handle.read() for name, handle in found.items() if handle} == expected


def test_a_loose_file_counts_before_an_entry(tmp_path: Path) -> None:
    append_entries(str(tmp_path / "cells.tar"), [("a/result.json", b"packed"), ("b/result.json", b"packed")])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "result.json").write_bytes(b"loose")
    assert read_cell_file(tmp_path / "a", "result.json", MOST) == b"packed"
    assert read_cell_file(tmp_path / "b", "result.json", MOST) == b"loose"
    assert read_cell_file(tmp_path / "c", "result.json", MOST) is None
    assert cells_of(tmp_path) == ["a", "b"]


def test_an_entry_longer_than_asked_for_is_not_read(tmp_path: Path) -> None:
    append_entries(str(tmp_path / "cells.tar"), [("a/trace.npz", bytes(1001))])
    with pytest.raises(OSError, match="1,001 bytes are more than bncheck reads"):
        read_cell_file(tmp_path / "a", "trace.npz", MOST)


@pytest.mark.parametrize("cut", [1, 511, 512, 600, 1023])
def test_a_cut_end_is_damage_and_what_stands_before_it_is_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cells.tar"
    append_entries(str(path), [("a/result.json", b"first")])
    append_entries(str(path), [("b/result.json", b"second")])
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_cell_file(tmp_path / "a", "result.json", MOST) == b"first"
    with pytest.raises(RunFolderError, match="is no whole entry"):
        read_cell_file(tmp_path / "b", "result.json", MOST)
    mend(tmp_path)
    assert path.stat().st_size == 1024
    assert read_cell_file(tmp_path / "b", "result.json", MOST) is None


def test_a_flipped_bit_in_a_header_ends_the_tar_there(tmp_path: Path) -> None:
    path = tmp_path / "cells.tar"
    append_entries(str(path), [("a/result.json", b"first"), ("b/result.json", b"second")])
    raw = bytearray(path.read_bytes())
    raw[1024] ^= 1
    path.write_bytes(raw)
    assert look(path).damage == "what stands at byte 1,024 of 2,048 is no whole entry"


def test_zeros_at_the_end_are_no_damage_and_are_cut_before_more_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "cells.tar"
    append_entries(str(path), [("a/result.json", b"first")])
    with path.open("ab") as handle:
        handle.write(bytes(1024))
    assert not look(path).damage
    mend(tmp_path)
    append_entries(str(path), [("b/result.json", b"second")])
    assert cells_of(tmp_path) == ["a", "b"]


def test_a_tar_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "cells.tar"
    append_entries(str(path), [("a/result.json", b"first")])
    assert read_cell_file(tmp_path / "a", "result.json", MOST) == b"first"
    path.unlink()
    append_entries(str(path), [("b/result.json", b"")])
    assert read_cell_file(tmp_path / "a", "result.json", MOST) is None


def test_copies_keep_their_order(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    append_entries(str(old / "cells.tar"), [("a/trace.npz", b"arrays"), ("a/result.json", b"{}")])
    copy_cell_files(old / "a", ("trace.npz", "gone.txt", "result.json"), new / "b", MOST)
    assert list(entries_of(new / "cells.tar")) == ["b/trace.npz", "b/result.json"]
    assert read_cell_file(new / "b", "trace.npz", MOST) == b"arrays"
