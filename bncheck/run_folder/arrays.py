"""Archives of arrays, read from an untrusted run folder.

An archive's declared sizes are checked before any memory is taken, arrays are decoded when they are asked for, and
pickled ones are refused.
"""

from __future__ import annotations

import errno
import io
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from bncheck.bounded import read_within
from bncheck.errors import RunFolderError
from bncheck.trace import Array

# The default run's largest trace has 2 MB; a deep network over 10,000 steps stays below a tenth of this.
MAX_ARCHIVE = 256 * 1024**2
MAX_ENTRIES = 100_000
LOCAL_HEADER = Struct("<HHIIIIHH")  # of an entry: flags to the lengths of its name and extra field


def open_archive(path: Path) -> Archive | None:
    """An archive of arrays, or None when there is no such file. RunFolderError for a link: a run folder has none."""
    try:
        return Archive(path, read_within(path.parent, path.name, most=MAX_ARCHIVE))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise RunFolderError(f"{path} is larger than {MAX_ARCHIVE >> 20} MiB, more than bncheck reads") from error
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error


class Archive(Mapping[str, Array]):
    """An .npz held as bytes; each array is checked and decoded when it is asked for.

    What bncheck wrote is stored, not compressed, with nothing between its entries: that is read in place, in a
    quarter of zipfile's time. Any other archive goes through zipfile, its declared sizes checked first.
    """

    def __init__(self, path: Path, raw: bytes) -> None:
        self.path, self.raw = path, raw
        self.stored = stored_entries(raw)
        self.packed = {} if self.stored else self.open_packed()
        self.names = self.stored or self.packed

    def open_packed(self) -> Mapping[str, zipfile.ZipInfo]:
        try:
            self.zip = zipfile.ZipFile(io.BytesIO(self.raw))
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise self.damaged(str(error)) from error
        entries = [item for item in self.zip.infolist() if item.filename.endswith(".npy")]
        total = sum(item.file_size for item in entries)
        if len(entries) > MAX_ENTRIES or total > MAX_ARCHIVE:
            raise RunFolderError(
                f"{self.path} declares {len(entries)} arrays of {total} bytes, more than bncheck reads "
                f"({MAX_ENTRIES} arrays, {MAX_ARCHIVE >> 20} MiB)",
                "record fewer steps, or do not open this folder: it was edited",
            )
        return {item.filename[: -len(".npy")]: item for item in entries}

    def damaged(self, why: str) -> RunFolderError:
        return RunFolderError(f"{self.path} is damaged: {why[:200]}", "run this cell again, or restore the file")

    def __getitem__(self, name: str) -> Array:
        if self.stored:
            start, end, checksum = self.stored[name]
            entry = self.raw[start:end]
            if zlib.crc32(entry) != checksum:
                raise self.damaged(f"array {name[:80]!r}: its checksum is wrong")
        else:
            entry = self.unpack(name)
        try:
            return decode(entry)
        except Exception as error:  # NumPy's parser of headers raises ValueError, SyntaxError, tokenize errors, …
            raise self.damaged(f"array {name[:80]!r}: {type(error).__name__}: {error}") from error

    def unpack(self, name: str) -> bytes:
        entry = self.packed[name]
        try:
            return self.zip.read(entry)
        except Exception as error:  # zlib.error and lzma errors have no common base with zipfile's own
            raise self.damaged(f"array {name[:80]!r}: {type(error).__name__}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def stored_entries(raw: bytes) -> dict[str, tuple[int, int, int]] | None:
    """Array name → (start, end, CRC-32) of an archive that ``worker/archive.py`` wrote; None for any other.

    Its entries lie one behind the other from the first byte and are counted in its last 22; a copy that was cut off,
    padded or edited in its structure is not one of them, and zipfile says what is wrong with it.
    """
    if raw[-22:-18] != b"PK\x05\x06":
        return None
    found: dict[str, tuple[int, int, int]] = {}
    at = count = 0
    while raw[at : at + 4] == b"PK\x03\x04" and at + 30 <= len(raw):
        flags, method, _, checksum, packed, size, name_size, extra = LOCAL_HEADER.unpack_from(raw, at + 6)
        start = at + 30 + name_size + extra
        if flags != 0x800 or method or extra or packed != size or start + size > len(raw):
            return None
        name = raw[at + 30 : start].decode("utf-8", "replace")
        if not name.endswith(".npy"):
            return None
        found[name[: -len(".npy")]] = (start, start + size, checksum)
        at, count = start + size, count + 1
    return found if count == len(found) == int.from_bytes(raw[-12:-10], "little") else None


def decode(raw: bytes) -> Array:
    """An array from the bytes of its .npy entry. Refuses one whose header promises more than the entry holds (NumPy
    would allocate it first) and one that holds pickled objects."""
    start = 12 if raw[6:7] == b"\x02" else 10
    length = int.from_bytes(raw[8:start], "little")
    shape, fortran, dtype = read_header(raw[: start + length])
    if len(raw) - start - length != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its header declares the shape {shape}, its data has another size")
    flat = np.frombuffer(raw, dtype, offset=start + length)
    return flat.reshape(shape, order="F" if fortran else "C").copy()


@lru_cache(maxsize=1024)
def read_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype). Cells share few headers, and NumPy takes 50 µs to parse one."""
    stream = io.BytesIO(head)
    major, _ = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a header as Python 2 wrote it is read all the same
        shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    if any(side < 0 for side in shape):
        raise ValueError(f"its header declares the shape {shape}")
    return shape, fortran, dtype
