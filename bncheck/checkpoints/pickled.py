"""Pickles read as data. Nothing that a pickle names is imported, called or built: what it asks for becomes a
:class:`Thing`, a name with what was handed to it. The stream is a program for a small machine with a stack; this is
that machine, with bounds, and without its one instruction that calls.

So a checkpoint that holds a whole model, of classes that are nowhere installed, can be read; and one that would run
``os.system`` is told apart from it, and refused.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

# A tensor takes about 35: this is a checkpoint of 57,000, ten times the largest met.
MOST_STEPS = 2_000_000
# Bytes of a string or of an array inside the stream.
LONGEST = 2**30
MOST_LINE = 100_000
LONGEST_NUMBER = 1_000  # bytes; what is longer than 4,300 digits cannot even be shown

# What no file of weights has a use for: calling it is an attack, or as good as one. A module stands for all in it.
ATTACKS = (
    "os", "posix", "nt", "subprocess", "shutil", "socket", "runpy", "pty", "ctypes", "importlib", "webbrowser",
    "urllib", "urllib2", "requests", "httpx", "ftplib", "smtplib", "pip", "marshal", "pickle", "_pickle", "cloudpickle",
    "dill", "code.interact", "pdb.run", "pdb.set_trace", "timeit.timeit", "timeit.repeat", "cProfile.run",
    "profile.run", "sys.exit", "types.FunctionType", "types.CodeType", "torch.hub", "torch.load", "numpy.load",
    "torch.serialization.load", "torch.utils.cpp_extension",
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.open",
    "builtins.__import__", "builtins.input", "builtins.breakpoint", "builtins.exit", "builtins.globals",
    "__builtin__.eval", "__builtin__.exec", "__builtin__.execfile", "__builtin__.compile", "__builtin__.open",
    "__builtin__.__import__", "__builtin__.file", "io.open", "_io.open",
)  # fmt: skip


MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "collections.Counter")


class PickleError(Exception):
    """What is wrong with a pickle, in words that follow "is damaged:"."""


class HostileError(PickleError):
    """It would run something that no weights need: ``name``."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, eq=False)
class Global:
    """A class or function that the stream names. It is not looked for."""

    name: str


@dataclass(eq=False)
class Thing:
    """What would be an object: the class or function that would make it, what it would be handed, and its state."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    listed: list[Any] = field(default_factory=list)


class Machine:
    """Reads one pickle from a stream, and stops behind it. What lies outside the stream (storages) is a Thing
    "persistent" with the stream's word for it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value. PickleError for what is damaged, HostileError for what would run."""
        try:
            for _ in range(MOST_STEPS):
                code = self.stream.read(1)
                if code == b".":
                    return self.stack.pop()
                action = ACTIONS.get(code)
                if action is None:
                    raise PickleError("it ends early" if not code else f"no pickle has the instruction {code!r}")
                action(self)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error, OverflowError) as error:
            raise PickleError(f"its instructions make no sense ({type(error).__name__})") from None
        raise PickleError(f"it has more than {MOST_STEPS:,} instructions, which no checkpoint has")

    # ---------------------------------------------------------------------------------------------- reading

    def take(self, count: int) -> bytes:
        if not 0 <= count <= LONGEST:
            raise PickleError(f"a string of {count:,} bytes is declared")
        parts, left = [], count
        while left:  # in pieces: what is declared is not what is there
            part = self.stream.read(min(left, 2**24))
            if not part:
                raise PickleError("it ends in the middle of a string")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        found = self.stream.readline(MOST_LINE)
        if not found.endswith(b"\n"):
            raise PickleError("it ends in the middle of a line")
        return found[:-1]

    # ------------------------------------------------------------------------------------------------ stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.marks) > 100_000:
            raise PickleError("it is nested too deep")
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        found, self.stack = self.stack, self.marks.pop()
        return found

    def tuple_of(self, count: int) -> None:
        found = tuple(self.stack[len(self.stack) - count :])
        if len(found) != count:
            raise PickleError("its instructions make no sense (stack)")
        del self.stack[len(self.stack) - count :]
        self.push(found)

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    # ---------------------------------------------------------------------------------------------- actions

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Thing):
            target.listed.extend(values)
        else:
            raise PickleError("it appends to what is no list")

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        held = target.items if isinstance(target, Thing) else target
        if not isinstance(held, dict):
            raise PickleError("it stores items in what is no mapping")
        held.update((key_of(values[at]), values[at + 1]) for at in range(0, len(values) - 1, 2))

    def mapping(self) -> None:
        values = self.since_mark()
        self.push({})
        self.set_items(values)

    def item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def stacked_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.named(module, name)

    def named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("a name is no text")
        self.push(Global(f"{module}.{name}"[:1000]))

    def call(self, function: Any, args: Any) -> None:
        name = function.name if isinstance(function, Global) else ""
        if name in ("builtins.eval", "__builtin__.eval") and is_paddles(args):
            self.push(args[1]["data"])  # nothing is evaluated: Paddle writes an array as eval("data", {"data": array})
            return
        if is_attack(name):
            raise HostileError(name)
        for each in args if isinstance(args, tuple) else (args,):  # getattr, partial, map, …: to be called later
            if isinstance(each, Global) and is_attack(each.name):
                raise HostileError(each.name)
        self.push(Thing(name=name, args=args if isinstance(args, tuple) else (args,)))

    def reduce(self) -> None:
        args = self.stack.pop()
        self.call(self.stack.pop(), args)

    def new(self, with_keywords: bool) -> None:
        if with_keywords:
            self.stack.pop()
        self.reduce()

    def inst(self) -> None:
        module, name = self.line().decode("utf-8", "replace"), self.line().decode("utf-8", "replace")
        self.call(Global(f"{module}.{name}"), tuple(self.since_mark()))

    def obj(self) -> None:
        function, *args = self.since_mark()
        self.call(function, tuple(args))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Thing):  # attributes of a plain mapping are nobody's weights
            target.state = state

    def text_line(self) -> None:
        self.push(self.line().decode("raw-unicode-escape", "replace"))

    def quoted(self) -> None:
        text = self.line().strip()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise PickleError("a string without quotes")
        self.push(codecs.escape_decode(text[1:-1])[0].decode("latin-1"))

    def whole(self, text: bytes) -> None:
        self.push({b"01": True, b"00": False}[text] if text in (b"00", b"01") else int(text.rstrip(b"L")))


def is_paddles(args: Any) -> bool:
    return (
        isinstance(args, tuple)
        and len(args) == 2
        and args[0] == "data"
        and isinstance(args[1], dict)
        and "data" in args[1]
    )


def key_of(value: Any) -> Any:
    """A key as it is where it is a plain one; anything else by its kind (hashing what is nested deep can crash)."""
    return value if value is None or isinstance(value, str | int | float | bytes) else f"<{type(value).__name__}>"


def mapping_of(node: Any) -> dict[Any, Any] | None:
    """A mapping, as it is or as one of the classes that pickle spells out; None for anything else."""
    if isinstance(node, Thing) and node.name in MAPPINGS:
        return node.items
    return node if isinstance(node, dict) else None


def is_attack(name: str) -> bool:
    return any(name == each or name.startswith(each + ".") for each in ATTACKS)


def text_of(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def integer(raw: bytes) -> int:
    if len(raw) > LONGEST_NUMBER:
        raise PickleError(f"a number of {len(raw):,} bytes is declared")
    return int.from_bytes(raw, "little", signed=True)


ACTIONS: Mapping[bytes, Callable[[Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b"(": Machine.mark,
    b"0": lambda m: m.stack.pop() if m.stack else m.since_mark(),
    b"1": Machine.since_mark,  # POP_MARK
    b"2": lambda m: m.push(m.stack[-1]),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.whole(m.line()),
    b"L": lambda m: m.whole(m.line()),
    b"F": lambda m: m.push(float(m.line())),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"G": lambda m: m.push(m.number(">d")),
    b"\x8a": lambda m: m.push(integer(m.take(m.number("<B")))),
    b"\x8b": lambda m: m.push(integer(m.take(m.number("<i")))),
    b"S": Machine.quoted,
    b"T": lambda m: m.push(m.take(m.number("<i")).decode("latin-1")),
    b"U": lambda m: m.push(m.take(m.number("<B")).decode("latin-1")),
    b"V": Machine.text_line,
    b"X": lambda m: m.push(text_of(m.take(m.number("<I")))),
    b"\x8c": lambda m: m.push(text_of(m.take(m.number("<B")))),
    b"\x8d": lambda m: m.push(text_of(m.take(m.number("<Q")))),
    b"B": lambda m: m.push(m.take(m.number("<I"))),
    b"C": lambda m: m.push(m.take(m.number("<B"))),
    b"\x8e": lambda m: m.push(m.take(m.number("<Q"))),
    b"\x96": lambda m: m.push(m.take(m.number("<Q"))),  # BYTEARRAY8
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.since_mark()),
    b"a": lambda m: m.append([m.stack.pop()]),
    b"e": lambda m: m.append(m.since_mark()),
    b"}": lambda m: m.push({}),
    b"d": Machine.mapping,
    b"s": Machine.item,
    b"u": lambda m: m.set_items(m.since_mark()),
    b"\x8f": lambda m: m.push([]),  # a set: nobody here asks whether something is in one
    b"\x90": lambda m: m.append(m.since_mark()),
    b"\x91": lambda m: m.push(m.since_mark()),  # FROZENSET
    b"c": lambda m: m.named(m.line().decode("utf-8", "replace"), m.line().decode("utf-8", "replace")),
    b"\x93": Machine.stacked_name,
    b"R": Machine.reduce,
    b"\x81": lambda m: m.new(False),
    b"\x92": lambda m: m.new(True),
    b"b": Machine.build,
    b"i": Machine.inst,
    b"o": Machine.obj,
    b"P": lambda m: m.push(Thing(name="persistent", args=(m.line().decode("latin-1"),))),
    b"Q": lambda m: m.push(Thing(name="persistent", args=(m.stack.pop(),))),
    b"g": lambda m: m.push(m.memo[int(m.line())]),
    b"h": lambda m: m.push(m.memo[m.number("<B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    b"p": lambda m: m.put(int(m.line())),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"\x82": lambda m: m.push(Thing(name=f"extension {m.number('<B')}")),
    b"\x83": lambda m: m.push(Thing(name=f"extension {m.number('<H')}")),
    b"\x84": lambda m: m.push(Thing(name=f"extension {m.number('<i')}")),
}
