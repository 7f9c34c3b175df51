"""What a cell left, by name: a loose file in its folder, or an entry of its target's ``cells.tar``.

Workers append ``<cell>/trace.npz`` and ``<cell>/result.json`` to the tar; what the host adds (the result of a cell that
crashed, replayed curves) lies loose in ``<cell>/``, and counts before an entry. Nobody vouches for a tar: nothing is
ever unpacked from it, and every size is checked before it is read.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from array import array
from functools import lru_cache
from pathlib import Path

import numpy as np

from bncheck.bounded import NO_FILE, clear, open_within, read_within
from bncheck.errors import RunFolderError
from bncheck.worker.archive import BLOCK, append_entries, seal, unsealed

TAR = "cells.tar"
LONGEST_NAME = 1000  # bytes; two words of 200 letters and a file's name are shorter


class Tar:
    """The index of a tar that grows at its end: only what came since the last look is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.forget()

    def forget(self) -> None:
        # Of each entry the hash of its name, its start and size: as a dict of names they take ten times the memory.
        self.names, self.starts, self.sizes = array("q"), array("q"), array("q")
        self.end = 0  # of the last whole entry
        self.damage = ""  # what stands behind it and is no whole entry
        self.stamp = (0, 0, 0)  # inode, size and time of change at the last look

    def look(self) -> None:
        """Take in what is new. A tar that is gone is empty; one that was replaced or cut is read from its start."""
        try:
            now = self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            self.forget()
            return
        if not stat.S_ISREG(now.st_mode):
            self.forget()
            self.damage = NO_FILE
            return
        stamp = (now.st_ino, now.st_size, now.st_mtime_ns)
        if stamp == self.stamp:
            return
        if now.st_ino != self.stamp[0] or now.st_size <= self.stamp[1]:
            self.forget()
        with self.open() as handle:
            self.scan(handle.fileno(), now.st_size)
        self.stamp = stamp

    def scan(self, descriptor: int, size: int) -> None:
        at, long_name, self.damage = self.end, "", ""
        while at < size:
            block = os.pread(descriptor, BLOCK, at)
            if not any(block):
                return  # the end that other programs write
            name, length, kind = read_header(block)
            after = at + BLOCK + length + -length % BLOCK
            if not kind or after > size or (kind == b"L" and length > LONGEST_NAME):
                self.damage = f"what stands at byte {at:,} of {size:,} is no whole entry"
                return
            if kind == b"L":
                long_name = os.pread(descriptor, length, at + BLOCK).rstrip(b"\0").decode("utf-8", "replace")
            else:
                self.names.append(hash(long_name or name))
                self.starts.append(at + BLOCK)
                self.sizes.append(length)
                long_name, self.end = "", after
            at = after

    def place(self, name: str) -> int | None:
        """Which entry has that name: the last of several."""
        found = np.flatnonzero(np.frombuffer(self.names, np.int64) == hash(name))
        return int(found[-1]) if found.size else None

    def read(self, name: str, most: int) -> bytes | None:
        """The bytes of an entry; None when it is not there. OSError when it is longer than ``most``."""
        at = self.place(name)
        if at is None:
            return None
        start, size = self.starts[at], self.sizes[at]
        if size > most:
            raise OSError(errno.EFBIG, f"its {size:,} bytes are more than bncheck reads", str(self.path))
        with self.open() as handle:
            return os.pread(handle.fileno(), size, start)

    def open(self) -> io.BufferedReader:
        folder = self.path.parent
        return open_within(folder.parent, folder.name, self.path.name)


def read_header(block: bytes) -> tuple[str, int, bytes]:
    """(name, size of the content, kind) of a tar's entry; the kind is empty for what is no header of ours."""
    try:
        checksum, size = int(block[148:154], 8), int(block[124:135], 8)
    except ValueError:
        return "", 0, b""
    kind = block[156:157]
    if sum(block[:148]) + 8 * 32 + sum(block[156:]) != checksum or kind not in (b"0", b"L") or size < 0:
        return "", 0, b""
    return block[:100].rstrip(b"\0").decode("utf-8", "replace"), size, kind


@lru_cache(maxsize=256)
def tar_at(path: Path) -> Tar:
    """The one index of a tar that this process keeps."""
    return Tar(path)


def read_cell_file(folder: Path, name: str, most: int) -> bytes | None:
    """The bytes of a cell's file, loose or from the tar beside its folder; None when it left none.

    OSError for a file that is no regular one or longer than ``most``; RunFolderError when it is not in a tar that
    is damaged, where it may have been.
    """
    if os.path.lexists(folder):  # which is seldom, before it is judged
        try:
            return read_within(folder.parent.parent, folder.parent.name, folder.name, name, most=most)
        except (FileNotFoundError, NotADirectoryError):
            pass  # nor where a file or a link stands in the place of the cell's folder
    tar = tar_at(folder.parent / TAR)
    tar.look()
    found = tar.read(f"{folder.name}/{name}", most)
    if found is None and tar.damage:
        raise RunFolderError(f"{tar.path} is damaged: {tar.damage}.", "Go on with: bncheck run --resume RUN")
    return found


def has_cell_file(folder: Path, name: str) -> bool:
    """Whether a cell left that file, whatever is in it."""
    tar = tar_at(folder.parent / TAR)
    tar.look()
    return tar.place(f"{folder.name}/{name}") is not None or os.path.lexists(folder / name)


def mend(target_folder: Path) -> None:
    """Cut off what a killed worker left behind the last whole entry, before another one appends; take away what is no
    file at all."""
    tar = tar_at(target_folder / TAR)
    tar.look()
    if tar.damage == NO_FILE:
        clear(tar.path)
        tar.forget()
    if tar.stamp[1] > tar.end:
        os.truncate(tar.path, tar.end)


def copy_cell_files(folder: Path, names: tuple[str, ...], new: Path, most: int) -> None:
    """Append copies of a cell's files to the tar beside the folder ``new``, the last name last; what was sealed where
    it lay is sealed where it comes to lie."""
    found = [(name, read_cell_file(folder, name, most)) for name in names]
    entries = [(f"{new.name}/{name}", moved(content, folder, new)) for name, content in found if content is not None]
    new.parent.mkdir(parents=True, exist_ok=True)
    append_entries(str(new.parent / TAR), entries)


def moved(content: bytes, folder: Path, new: Path) -> bytes:
    text = unsealed(folder.parent.name, folder.name, content)
    return content if text is None else seal(new.parent.name, new.name, text)
