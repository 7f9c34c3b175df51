"""A run folder as one archive of bytes, and back. What comes out of an archive is trusted as little as a checkpoint:
regular files of bounded size, below the folder and nowhere else."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from bncheck.bounded import is_folder, read_within
from bncheck.checkpoints.zipped import Entry, entries
from bncheck.errors import RunFolderError
from bncheck.run_folder.whole import write_whole

LARGEST = 4 * 2**30  # bytes of all files together; the default scenarios on three targets are 3 MB
MOST_FILES = 100_000
DEEPEST = 20  # folders
LONGEST = 200  # characters of a name
STAYS = ("writer.json",)  # who writes into the folder at home
UNIX = 3  # of ZipInfo.create_system: only then the upper half of external_attr is a mode


def pack(folder: Path) -> bytes:
    """All regular files of a run folder. RunFolderError where they are more than anybody unpacks again."""
    stream, total = io.BytesIO(), 0
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for names in files_of(folder):
            try:
                content = read_within(folder, *names, most=LARGEST - total)
            except OSError as error:
                raise RunFolderError(f"{folder.joinpath(*names)} cannot be sent: {error.strerror or error}.") from error
            total += len(content)
            archive.writestr("/".join(names), content)
    return stream.getvalue()


def files_of(folder: Path) -> Iterator[tuple[str, ...]]:
    """The names of each regular file below a folder, in order; links and pipes are none, whoever put them there."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            if stat.S_ISREG(path.lstat().st_mode) and not (path.parent == folder and name in STAYS):
                yield path.relative_to(folder).parts


def unpack(parcel: Path, folder: Path) -> None:
    """Write the files of an archive into a new folder; RunFolderError before the first one where any of them is not
    as ``pack`` makes it."""
    held = entries(parcel)
    if len(held) > MOST_FILES:
        raise RunFolderError(f"{parcel} holds {len(held):,} files; no run folder does.")
    total = sum(entry.size for entry in held.values())
    if total > LARGEST:
        raise RunFolderError(f"{parcel} unpacks to {total:,} bytes, more than bncheck takes.")
    places = {name: safe_parts(parcel, name, entry) for name, entry in held.items()}
    folder.mkdir()
    for name, parts in places.items():
        path = folder.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise unlike(parcel, name) from None  # a file stands where another name wants a folder
        if is_folder(path):
            raise unlike(parcel, name)
        write_whole(path, held[name].read())


def safe_parts(parcel: Path, name: str, entry: Entry) -> tuple[str, ...]:
    """The folders and the name of an entry, each of which leads one step down."""
    mode = entry.info.external_attr >> 16 if entry.info.create_system == UNIX else 0
    parts = tuple(name.split("/"))
    sound = len(parts) <= DEEPEST and all(
        part not in ("", ".", "..") and len(part) <= LONGEST and part.isprintable() and "\\" not in part
        for part in parts
    )
    if not sound or stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise unlike(parcel, name)
    return parts


def unlike(parcel: Path, name: str) -> RunFolderError:
    return RunFolderError(f"{parcel} holds {name[:80]!r}, which is no file of a run folder.")
