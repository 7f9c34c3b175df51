"""Hostile input for every reader: whatever a file or an option holds, the answer is a value or a sentence of ours.

    python tests/tools/fuzz.py                          100,000 inputs over all readers, about half an hour
    python tests/tools/fuzz.py --inputs 5000 plan gate  only these readers
    python tests/tools/fuzz.py --seed 7 --keep FOLDER   other inputs; those that fell are written there, made small

An input falls when its reader raises anything else than an error of ours, or takes more than five seconds of CPU. JSON
and TOML are changed as structures, everything as bytes too. What fell once lies in ``tests/corpus``, as
``<reader>-<name>``, and is read by each run of the tests.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import signal
import sys
import tempfile
import tomllib
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from fuzzed_readers import OURS, Reader, readers  # noqa: E402

CORPUS = HERE.parent / "corpus"
CPU_SECONDS = 5.0
MOST_BYTES = 3 * 2**30  # of address space, in the long form
PIECES = (
    b"[" * 2000, b"]" * 200, b"{" * 2000, b"9" * 5000, b"0x" + b"f" * 5000, b".a" * 5000, b"a" * 5000,
    b"\0", b"\xed\xa0\x80", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b"\\u0000", b"nan", b"inf", b"-1", b"1e999",
    b'"""', b"'''", b"=", b"\n", b"\r\n", b"../../x", b"{}", b"[]", b'"a"."b"', b"1979-05-27", b"#", b",", b"true",
    b"18446744073709551616", b"2147483648",
)  # fmt: skip
NAMES = ("../../x", "/x", "a" * 5000, "\n", "\x1b[31m", "archive/data.pkl", "data.pkl", "x.npy", "metadata.json")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"),
    "", "x", "\0", "\ud800", "../../x", "a" * 5000, "9" * 5000, "default", "framework",
    [], {}, [[]], [None] * 3, [1] * 1000, {"": ""}, {"a": {"b": {"c": 1}}},
)  # fmt: skip


@dataclass(frozen=True)
class Fall:
    reader: str
    data: bytes
    why: str


class TooLong(BaseException):
    """More CPU than any input may take."""


# ------------------------------------------------------------------------------------------------------- changing


def mutated(seed: bytes, others: tuple[bytes, ...], kind: str, rng: random.Random) -> bytes:
    """One to four changes of a sound input."""
    data = seed
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        structured = kind != "bytes" and rng.random() < 0.7
        change = repacked if kind == "zip" else restructured
        data = change(data, kind, rng) if structured else changed(data, others, rng)
    return data


def repacked(data: bytes, kind: str, rng: random.Random) -> bytes:
    """A zip one of whose entries was changed, or called otherwise; its checksums are right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error):
        return data  # an earlier change has damaged it
    place = rng.randrange(len(entries)) if entries else 0
    found, method = io.BytesIO(), rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(found, "w", method) as archive:
        warnings.simplefilter("ignore")  # two of one name are meant
        for number, (name, content) in enumerate((name or "x", content) for name, content in entries):
            given = changed(content, tuple(each for _, each in entries), rng) if number == place else content
            called = rng.choice(NAMES) if number == place and rng.random() < 0.1 else name
            for _ in range(rng.choice((0, 2)) if number == place and rng.random() < 0.1 else 1):
                archive.writestr(called, given)
    return found.getvalue()


def changed(data: bytes, others: tuple[bytes, ...], rng: random.Random) -> bytes:
    """Bytes cut, flipped, repeated, put in, or taken from another input."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((1, 4, 30, 300)))
    match rng.randrange(6):
        case 0:
            return data[:start] + data[end:]
        case 1 if data:
            place = min(start, len(data) - 1)
            return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
        case 2:
            return data[:end] + data[start:end] * rng.choice((1, 2, 1000)) + data[end:]
        case 3:
            other = rng.choice(others)
            return data[:start] + other[rng.randrange(len(other) + 1) :]
        case 4:
            return data[:start]
        case _:
            return data[:start] + rng.choice(PIECES) + data[end if rng.random() < 0.5 else start :]


def restructured(data: bytes, kind: str, rng: random.Random) -> bytes:
    """A value of a JSON or TOML document replaced, removed, doubled or put into a list; else the bytes as they are."""
    try:
        value = json.loads(data) if kind == "json" else tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return data
    ways = list(ways_into(value))
    way = rng.choice(ways) if ways else ()
    new = rng.choice(VALUES) if rng.random() < 0.8 or not ways else value_at(value, rng.choice(ways))
    match rng.randrange(5):
        case 0 if way:
            value = without(value, way)
        case 1:
            value = put(value, way, [value_at(value, way)] * rng.choice((1, 3, 300)))
        case _:
            value = put(value, way, new)
    try:
        return json.dumps(value).encode() if kind == "json" else as_toml(value).encode("utf-8", "surrogatepass")
    except RecursionError:
        return data


def ways_into(value: Any, at: tuple[Any, ...] = (), deep: int = 0) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*at, key)
        if deep < 30:
            yield from ways_into(item, (*at, key), deep + 1)


def value_at(value: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        value = value[key]
    return value


def put(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    if not way:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[way[0]] = put(value[way[0]], way[1:], new)
    return copy


def without(value: Any, way: tuple[Any, ...]) -> Any:
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(way) == 1:
        del copy[way[0]]
    else:
        copy[way[0]] = without(value[way[0]], way[1:])
    return copy


def as_toml(value: Any) -> str:
    """A document with a line per key and everything below it inline."""
    if not isinstance(value, dict):
        return f"x = {inline(value)}\n"
    return "".join(f"{json.dumps(str(key))} = {inline(item)}\n" for key, item in value.items())


def inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(inline(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value) if value > 2**70 else str(value)
    if isinstance(value, date | datetime):
        return value.isoformat()
    return "0" if value is None else json.dumps(value)


# --------------------------------------------------------------------------------------------------------- trying


def stop(number: int, frame: FrameType | None) -> None:
    raise TooLong(f"more than {CPU_SECONDS:g} s of CPU")


def fall_of(reader: Reader, data: bytes, folder: Path) -> Fall | None:
    """Read one input; None when the answer is a value or a sentence."""
    path = folder / reader.file
    path.write_bytes(data)
    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        reader.read(path)
    except OURS as error:
        str(error).encode("utf-8", "backslashreplace")
    except (Exception, TooLong) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__}: {str(error)[:100]} ({Path(where.filename).name}:{where.lineno} {where.name})"
        return Fall(reader.name, data, why)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return None


def smaller(reader: Reader, fall: Fall, folder: Path, tries: int = 200) -> Fall:
    """The fall with as much cut out as still falls at the same place."""
    size = len(fall.data) // 2
    while size and tries:
        start = 0
        while start < len(fall.data) and tries:
            tries -= 1
            found = fall_of(reader, fall.data[:start] + fall.data[start + size :], folder)
            if found is not None and found.why.rpartition("(")[2] == fall.why.rpartition("(")[2]:
                fall = found
            else:
                start += size
        size //= 2
    return fall


def attack(reader: Reader, count: int, seed: int, folder: Path) -> tuple[Counter[str], list[Fall]]:
    """So many inputs for one reader: how many held, and one fall for each place."""
    rng = random.Random(f"{seed} {reader.name}")
    counts: Counter[str] = Counter()
    falls: dict[str, Fall] = {}
    for _ in range(count):
        found = fall_of(reader, mutated(rng.choice(reader.seeds), reader.seeds, reader.kind, rng), folder)
        counts["held" if found is None else "fell"] += 1
        if found is not None:
            falls.setdefault(found.why.rpartition("(")[2], found)
    return counts, list(falls.values())


def corpus(name: str) -> list[Path]:
    return sorted(CORPUS.glob(f"{name}-*"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="readers; all when none is named")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        chosen = [reader for name, reader in readers(Path(made)).items() if not options.names or name in options.names]
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        weight, fell = sum(reader.weight for reader in chosen), 0
        for reader in chosen:
            before = resource.getrusage(resource.RUSAGE_SELF)
            counts, falls = attack(reader, round(options.inputs * reader.weight / weight), options.seed, Path(made))
            after = resource.getrusage(resource.RUSAGE_SELF)
            fell += counts["fell"]
            grown, took = (after.ru_maxrss - before.ru_maxrss) >> 10, after.ru_utime - before.ru_utime
            print(
                f"{reader.name:12} {counts.total():7,} inputs, {counts['fell']:5,} fell, {took:6.1f} s, +{grown} MiB",
                flush=True,
            )
            for fall in falls:
                small = smaller(reader, fall, Path(made))
                print(f"    {small.why}\n    {small.data[:100]!r}", flush=True)
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{reader.name}-{abs(hash(small.data)) % 16**8:08x}").write_bytes(small.data)
    return 1 if fell else 0


if __name__ == "__main__":
    sys.exit(main())
