"""Reading and replacing files that somebody else may have put there: a regular file, of a size that is known before it
is read, in the folder where it is looked for.

A device such as /dev/zero says that it has no bytes and never ends; a pipe makes its reader and its writer wait for
ever; a link leads to a file that is somewhere else.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
from pathlib import Path

READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
NO_FILE = "it is no regular file"


def open_regular(path: Path) -> io.BufferedReader:
    """The file, opened for reading bytes; a link is followed, for it may be the user's own.

    OSError for what is no regular file or no name of one (a NUL in it), FileNotFoundError as usual.
    """
    try:
        descriptor = os.open(path, READING)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), repr(path)) from None
    return regular(descriptor, path)


def is_regular(path: Path) -> bool:
    """Whether it is a regular file, for any text that was given as a path: too long, with a NUL."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Likewise, whether it is a folder."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def is_there(path: Path) -> bool:
    """Likewise, whether anything is there."""
    try:
        return bool(path.stat())
    except (OSError, ValueError):
        return False


def is_link(path: Path) -> bool:
    """Likewise, whether it is a link, wherever that leads."""
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False


def open_within(folder: Path, *names: str) -> io.BufferedReader:
    """``folder/name/…/name``, where none of the names is a link. OSError likewise.

    A worker may play at this very moment, so looking first and opening then would not do: each step is taken from the
    folder that the step before it has opened.
    """
    path = folder.joinpath(*names)
    here = os.open(folder, READING | os.O_DIRECTORY)
    try:
        for name in names[:-1]:
            inner = os.open(name, READING | os.O_DIRECTORY | NO_LINK, dir_fd=here)
            os.close(here)
            here = inner
        descriptor = os.open(names[-1], READING | NO_LINK, dir_fd=here)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a socket cannot be opened at all
            raise OSError(errno.EINVAL, NO_FILE, str(path)) from None
        raise
    finally:
        os.close(here)
    return regular(descriptor, path)


def regular(descriptor: int, path: Path) -> io.BufferedReader:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, NO_FILE, str(path))
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, most: int) -> bytes:
    """The file's bytes. OSError for what is no regular file or longer than ``most``, FileNotFoundError as usual."""
    with open_regular(path) as handle:
        return take(handle, path, most)


def read_within(folder: Path, *names: str, most: int) -> bytes:
    """The bytes of ``folder/name/…/name``, where none of the names is a link; OSError as ``read_bounded``."""
    with open_within(folder, *names) as handle:
        return take(handle, folder.joinpath(*names), most)


def take(handle: io.BufferedReader, path: Path, most: int) -> bytes:
    size = os.fstat(handle.fileno()).st_size
    if size > most:
        raise OSError(errno.EFBIG, f"its {size:,} bytes are more than bncheck reads", str(path))
    return handle.read(most)


def expanded(path: Path | str) -> Path:
    """``~`` and ``~name`` as a shell takes them: one that is nobody's home, or no name, stays as it is written."""
    try:
        return Path(os.path.expanduser(path))  # noqa: PTH111 - that of pathlib raises for a name of nobody
    except ValueError:  # a NUL in it
        return Path(path)


def clear(path: Path) -> None:
    """Take away whatever stands there: a file, a pipe, a link (never what it leads to), or a folder with all in it."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def own_file(path: Path) -> Path:
    """The path, cleared where something else than a file stands there: a pipe would never take what is written."""
    try:
        is_file = stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        is_file = True
    if not is_file:
        clear(path)
    return path


def own_folder(path: Path) -> Path:
    """The folder, made where something else or nothing stands in its place."""
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        is_folder = False
    if not is_folder:
        clear(path)
        path.mkdir(parents=True)
    return path


def printable(name: str) -> str:
    """A name out of a file or a program as sentences can hold it: a line break in one would begin a line that bncheck
    never said."""
    return name if name.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in name)
