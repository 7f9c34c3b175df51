"""Zip archives of anybody: entries as :class:`~bncheck.checkpoints.tensor.Stretch` where they lie as they are, unpacked
with a bound where they are compressed. Nothing is ever extracted, so links and paths inside mean nothing."""

from __future__ import annotations

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bncheck.bounded import open_regular
from bncheck.checkpoints.tensor import Stretch, Unpacked, damaged, whole_file
from bncheck.errors import CheckpointError

# Directory of an archive: 46 bytes and a name per entry; 200,000 entries. It is in memory, fifty times as large.
LARGEST_DIRECTORY = 24 * 2**20
# A compressed entry is unpacked in memory.
LARGEST_UNPACKED = 2**30
UNPACKING = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, NotImplementedError, ValueError,
    struct.error, KeyError,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One file in an archive: ``stretch`` where its bytes lie as they are, None where they are compressed."""

    path: Path
    info: zipfile.ZipInfo
    stretch: Stretch | None

    @property
    def size(self) -> int:
        return self.info.file_size

    def read(self, most: int = LARGEST_UNPACKED) -> bytes:
        """All its bytes. CheckpointError where they are more than ``most``, or not what is declared."""
        self.refuse_large(most)
        if self.stretch is not None:
            return self.stretch.read(0, self.size)
        found = self.unpacked(self.size + 1)
        if len(found) != self.size:
            raise damaged(self.path, f"{self.info.filename[:80]!r} unpacks to another size than it declares")
        return found

    def refuse_large(self, most: int) -> None:
        if self.size > most:
            raise CheckpointError(
                f"{self.path} declares {self.size:,} bytes in {self.info.filename[:80]!r}, more than bncheck reads."
            )

    def unpacked(self, most: int) -> bytes:
        """Its first bytes, as far as they go."""
        try:
            with (
                open_regular(self.path) as handle,
                zipfile.ZipFile(handle) as archive,
                archive.open(self.info) as entry,
            ):
                return entry.read(most)
        except UNPACKING as error:
            raise damaged(self.path, f"{self.info.filename[:80]!r}: {error}") from None

    def whole(self) -> Stretch:
        """Its bytes as a stretch: in place, or unpacked into memory."""
        return self.stretch if self.stretch is not None else Unpacked(self.path, 0, self.size, raw=self.read())

    def on_demand(self) -> Stretch:
        """Its bytes as a stretch that is unpacked anew by each read, and not held: an archive may have hundreds."""
        if self.stretch is not None:
            return self.stretch
        self.refuse_large(LARGEST_UNPACKED)
        return Packed(self.path, 0, self.size, entry=self)


@dataclass(frozen=True)
class Packed(Stretch):
    """Bytes that lie compressed, and are unpacked as far as a read goes."""

    entry: Entry | None = None

    def read(self, offset: int, count: int) -> bytes:
        assert self.entry is not None
        if offset < 0 or count < 0 or offset + count > self.size:
            raise damaged(self.path, f"{count:,} bytes are declared where {max(self.size - offset, 0):,} are left")
        if offset + count == self.size:
            return self.entry.read()[offset:]
        found = self.entry.unpacked(offset + count)[offset:]
        if len(found) != count:
            raise damaged(self.path, f"{self.entry.info.filename[:80]!r} unpacks to another size than it declares")
        return found


def entries(path: Path) -> Mapping[str, Entry]:
    """Name → entry of an archive."""
    file = whole_file(path)
    tail = file.read(max(file.size - 66_000, 0), min(file.size, 66_000))
    if b"PK\x05\x06" not in tail and file.read(0, min(file.size, 2)) != b"PK":
        raise damaged(path, "it does not begin as a file of its kind does, or is of another kind")
    refuse_directory(path, tail)
    try:
        with open_regular(path) as handle, zipfile.ZipFile(handle) as archive:
            listed = archive.infolist()
            return {info.filename: Entry(path, info, stretch_of(path, info, handle)) for info in listed}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, struct.error, RuntimeError) as error:
        raise damaged(path, str(error)) from None


def refuse_directory(path: Path, tail: bytes) -> None:
    """zipfile holds the whole directory in memory before it looks at it."""
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise damaged(path, "it ends before the directory of the archive: it was cut off")
    (size,) = struct.unpack_from("<I", tail, at + 12)
    wide = tail.rfind(b"PK\x06\x06")
    if size == 0xFFFFFFFF and 0 <= wide <= len(tail) - 56:
        (size,) = struct.unpack_from("<Q", tail, wide + 40)
    if size > LARGEST_DIRECTORY:
        raise CheckpointError(f"{path} declares an archive directory of {size:,} bytes, more than bncheck reads.")


def stretch_of(path: Path, info: zipfile.ZipInfo, handle: io.BufferedReader) -> Stretch | None:
    """Where the bytes of an entry lie that is neither compressed nor encrypted."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        return None
    handle.seek(info.header_offset)
    head = handle.read(30)
    if len(head) != 30 or head[:4] != b"PK\x03\x04":
        raise damaged(path, f"{info.filename[:80]!r} is not where the directory of the archive says")
    name, extra = struct.unpack_from("<HH", head, 26)
    return Stretch(path, info.header_offset + 30 + name + extra, info.file_size)
