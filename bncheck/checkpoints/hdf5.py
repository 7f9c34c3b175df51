"""HDF5 as h5py writes it by default: groups as symbol tables or compact links, arrays in one piece.

A reader of its own, because the library runs its C code on what a stranger wrote. Offsets and lengths of eight bytes;
what else HDF5 can do (dense groups, chunks, filters) is :class:`UnknownPart`, and the library's to read, where it is
installed. The layout is that of the HDF5 File Format Specification, version 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bncheck.checkpoints.tensor import Stretch, Tensor, Unpacked, checked_shape, damaged, dense

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1
MOST = 200_000  # objects
MOST_AGAIN = 1_000  # of them that were read before, under another name
LONGEST_NAME = 10_000
DEEPEST = 40
DATASPACE, LINK_INFO, DATATYPE, LINK, LAYOUT, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOLS = 1, 2, 3, 6, 8, 11, 12, 16, 17


class UnknownPart(Exception):
    """A part of HDF5 that this reader does not know, in words."""


@dataclass
class Group:
    """Members by name, and the attributes that are text."""

    members: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)


def read(file: Stretch) -> Group:
    """The root group. CheckpointError for what is damaged, UnknownPart for what is beyond this reader."""
    path = file.path
    if file.read(0, 8) != SIGNATURE:
        raise damaged(path, "it does not begin as an HDF5 file")
    try:
        found = Reader(file).object(root_of(file), 0)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise damaged(path, f"its structure makes no sense ({type(error).__name__})") from None
    if not isinstance(found, Group):
        raise damaged(path, "its root is no group")
    return found


def root_of(file: Stretch) -> int:
    version = file.read(8, 1)[0]
    sizes = file.read(13, 2) if version < 2 else file.read(9, 2)
    if bytes(sizes) != b"\x08\x08":
        raise UnknownPart("addresses of another size than eight bytes")
    if version in (0, 1):
        return number(file, 64 + 4 * version)
    if version in (2, 3):
        return number(file, 36)
    raise UnknownPart(f"superblock version {version}")


def number(file: Stretch, at: int) -> int:
    return int(struct.unpack("<Q", file.read(at, 8))[0])


class Reader:
    def __init__(self, file: Stretch) -> None:
        self.file, self.count = file, 0
        self.visits: dict[int, int] = {}  # address of an object or of a table → how often it was read

    def object(self, address: int, depth: int) -> Group | Tensor | None:
        """A group with all that is in it, or an array; None for what is neither."""
        self.visit(address)
        if self.count > MOST or depth > DEEPEST:
            raise damaged(self.file.path, "it is nested too deep, or holds too many objects")
        messages = list(self.messages(address))
        kinds = {kind for kind, _ in messages}
        if {DATASPACE, DATATYPE, LAYOUT} <= kinds:
            return self.array(dict(messages))
        if not kinds & {SYMBOLS, LINK_INFO, LINK}:
            return None
        group = Group()
        for name, place in self.links(messages):
            group.members[name] = self.object(place, depth + 1)
        for kind, data in messages:
            if kind == ATTRIBUTE and (found := self.attribute(data)) is not None:
                group.attributes[found[0]] = found[1]
        return group

    def visit(self, address: int) -> None:
        """Two names of one object are HDF5; a thousand are a file that doubles at each level."""
        self.count += 1
        self.visits[address] = self.visits.get(address, 0) + 1
        if self.count - len(self.visits) > MOST_AGAIN:
            raise damaged(self.file.path, "its groups go round in a circle")

    # ------------------------------------------------------------------------------------------- object headers

    def messages(self, address: int) -> Iterator[tuple[int, bytes]]:
        head = self.file.read(address, 16)
        if head[:4] == b"OHDR":
            yield from self.messages_two(address, head)
            return
        if head[0] != 1:
            raise damaged(self.file.path, "an object has no header")
        (size,) = struct.unpack_from("<I", head, 8)
        blocks, seen = [(address + 16, size)], 0
        while blocks:
            start, length = blocks.pop(0)
            data, at = self.file.read(start, length), 0
            while at + 8 <= length:
                kind, size, _ = struct.unpack_from("<HHB", data, at)
                body = data[at + 8 : at + 8 + size]
                at += 8 + size
                seen = self.one_more(seen)
                if kind == CONTINUATION:
                    blocks.append(struct.unpack("<QQ", body[:16]))
                else:
                    yield kind, body

    def messages_two(self, address: int, head: bytes) -> Iterator[tuple[int, bytes]]:
        flags = head[5]
        at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(self.file.read(at, width), "little")
        blocks, seen, extra = [(at + width, size)], 0, 2 if flags & 4 else 0
        while blocks:
            start, length = blocks.pop(0)
            data, at = self.file.read(start, length), 0
            while at + 4 + extra <= length:
                kind, size, _ = struct.unpack_from("<BHB", data, at)
                body = data[at + 4 + extra : at + 4 + extra + size]
                at += 4 + extra + size
                seen = self.one_more(seen)
                if kind == CONTINUATION:
                    place, length_of = struct.unpack("<QQ", body[:16])
                    blocks.append((place + 4, max(length_of - 8, 0)))  # OCHK before, a checksum behind
                else:
                    yield kind, body

    def one_more(self, seen: int) -> int:
        if seen > 10_000:
            raise damaged(self.file.path, "an object's header goes round in a circle")
        return seen + 1

    # ---------------------------------------------------------------------------------------------------- groups

    def links(self, messages: list[tuple[int, bytes]]) -> Iterator[tuple[str, int]]:
        for kind, data in messages:
            if kind == SYMBOLS:
                tree, heap = struct.unpack("<QQ", data[:16])
                yield from self.symbols(tree, self.heap(heap), 0)
            elif kind == LINK:
                found = link_of(data)
                if found is not None:
                    yield found
            elif kind == LINK_INFO:
                at = 2 + (8 if data[1] & 1 else 0)
                if struct.unpack_from("<Q", data, at)[0] != UNDEFINED:
                    raise UnknownPart("groups of more than eight members in the newer layout")

    def heap(self, address: int) -> bytes:
        head = self.file.read(address, 32)
        if head[:4] != b"HEAP":
            raise damaged(self.file.path, "a group has no names")
        size, _, place = struct.unpack_from("<QQQ", head, 8)
        return self.file.read(place, size)

    def symbols(self, address: int, names: bytes, depth: int) -> Iterator[tuple[str, int]]:
        """Entries of a B-tree of groups."""
        self.visit(address)
        if depth > DEEPEST or self.count > MOST:
            raise damaged(self.file.path, "a group goes round in a circle")
        head = self.file.read(address, 24)
        if head[:4] == b"TREE":
            (entries,) = struct.unpack_from("<H", head, 6)
            keys = self.file.read(address + 24, 16 * entries + 8)
            for place in range(entries):
                yield from self.symbols(struct.unpack_from("<Q", keys, 16 * place + 8)[0], names, depth + 1)
        elif head[:4] == b"SNOD":
            (entries,) = struct.unpack_from("<H", head, 6)
            data = self.file.read(address + 8, 40 * entries)
            for place in range(entries):
                offset, header = struct.unpack_from("<QQ", data, 40 * place)
                yield names[offset : names.index(b"\0", offset, offset + LONGEST_NAME)].decode("utf-8"), header
        else:
            raise damaged(self.file.path, "a group has no table")

    # ---------------------------------------------------------------------------------------------------- arrays

    def array(self, messages: dict[int, bytes]) -> Tensor | None:
        shape, dtype = shape_of(self.file.path, messages[DATASPACE]), dtype_of(messages[DATATYPE])
        if dtype is None:
            return None
        name, order = dtype
        layout = messages[LAYOUT]
        if layout[0] != 3 or layout[1] not in (0, 1) or FILTERS in messages:
            raise UnknownPart("arrays in chunks, or compressed")
        if layout[1] == 0:
            (size,) = struct.unpack_from("<H", layout, 2)
            raw = layout[4 : 4 + size]
            return dense(Unpacked(self.file.path, 0, len(raw), raw=raw), 0, shape, name, order)
        place, size = struct.unpack_from("<QQ", layout, 2)
        if place == UNDEFINED or not math.prod(shape):
            return None
        return dense(self.file.part(place, size), 0, shape, name, order)

    # ------------------------------------------------------------------------------------------------ attributes

    def attribute(self, data: bytes) -> tuple[str, str] | None:
        """(name, text) of an attribute that is one text."""
        version = data[0]
        name_size, type_size, space_size = struct.unpack_from("<HHH", data, 2)
        at = 9 if version == 3 else 8
        name = data[at : at + name_size].split(b"\0")[0].decode("utf-8", "replace")
        step = 8 if version == 1 else 1  # each part begins at a multiple of it
        kind_at = at + -(-name_size // step) * step
        space_at = kind_at + -(-type_size // step) * step
        kind, space = data[kind_at : kind_at + type_size], data[space_at : space_at + space_size]
        body = data[space_at + -(-space_size // step) * step :]
        if len(kind) < 8 or not space or math.prod(shape_of(self.file.path, space)) != 1:
            return None
        if kind[0] & 15 == 3:  # text of a fixed length
            return name, body.split(b"\0")[0].decode("utf-8", "replace")
        if kind[0] & 15 == 9 and len(body) >= 16:  # of any length, in the heap of the file
            length, heap, index = struct.unpack_from("<IQI", body)
            return name, self.global_heap(heap, index)[:length].decode("utf-8", "replace")
        return None

    def global_heap(self, address: int, index: int) -> bytes:
        head = self.file.read(address, 16)
        (size,) = struct.unpack_from("<Q", head, 8)
        if head[:4] != b"GCOL" or size > self.file.size:
            raise damaged(self.file.path, "a text is not where it should be")
        data, at = self.file.read(address, size), 16
        while at + 16 <= size:
            number, _, _, length = struct.unpack_from("<HHIQ", data, at)
            if number == index:
                return data[at + 16 : at + 16 + length]
            if number == 0:
                break
            at += 16 + -(-length // 8) * 8
        return b""


def link_of(data: bytes) -> tuple[str, int] | None:
    """(name, address) of a hard link."""
    flags, at = data[1], 2
    if flags & 8:
        if data[at] != 0:  # a soft or an external one: into somebody else's file
            return None
        at += 1
    at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(data[at : at + width], "little")
    at += width
    return data[at : at + length].decode("utf-8"), struct.unpack_from("<Q", data, at + length)[0]


def shape_of(path: Path, data: bytes) -> tuple[int, ...]:
    version, axes = data[0], data[1]
    return checked_shape(path, struct.unpack_from(f"<{axes}Q", data, 8 if version == 1 else 4))


def dtype_of(data: bytes) -> tuple[str, str] | None:
    """(name, byte order) of a number type; None for any other."""
    kind, bits = data[0] & 15, data[1]
    (size,) = struct.unpack_from("<I", data, 4)
    order = ">" if bits & 1 else "<"
    if kind == 1:
        exponent = data[13]
        names = {(2, 5): "float16", (2, 8): "bfloat16", (4, 8): "float32", (8, 11): "float64"}
        name = names.get((size, exponent))
    else:
        name = f"{'int' if bits & 8 else 'uint'}{8 * size}" if kind == 0 and size in (1, 2, 4, 8) else None
    return (name, order) if name else None
