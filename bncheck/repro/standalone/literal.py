"""Arrays as Python source: literals that read back as the same bytes."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bncheck.repro.standalone.generator import regenerate
from bncheck.scenario import InputSpec
from bncheck.trace import Array

# More numbers than this are made again by their recipe, or lie in an .npz beside the script.
LITERAL = 64


def scalar(value: Any) -> str:
    """The shortest text that reads back as this very value in the value's own dtype."""
    number = float(value)
    if not math.isfinite(number):
        return "np.nan" if math.isnan(number) else ("np.inf" if number > 0 else "-np.inf")
    if isinstance(value, (np.integer, int)) or (number.is_integer() and abs(number) < 1e6):
        return str(int(number)) if number or math.copysign(1, number) > 0 else "-0.0"
    if isinstance(value, np.floating):
        short = str(np.dtype(value.dtype).type(value).item() if value.dtype == np.float64 else value)
        if value.dtype.type(float(short)) == value:
            return short
    return repr(number)


def nested(array: Array) -> str:
    if array.ndim == 0:
        return scalar(array[()])
    return "[" + ", ".join(nested(np.asarray(item)) if array.ndim > 1 else scalar(item) for item in array) + "]"


def wrapped(name: str, array: Array) -> list[str]:
    """``name = np.array([...], dtype=…)``, a line per first axis where it is long."""
    dtype = f"dtype={array.dtype.name!r}"
    if array.size == 0:
        return [f"{name} = np.zeros({array.shape}, {dtype})"]
    text = f"{name} = np.array({nested(array)}, {dtype})"
    if len(text) <= 110 or array.ndim < 2:
        return [text]
    return [f"{name} = np.array([", *[f"    {nested(item)}," for item in array], f"], {dtype})"]


def constant(name: str, array: Array) -> list[str] | None:
    """``np.full`` where every value is the same; None where it is not."""
    flat = array.reshape(-1)
    if flat.size < 2 or not bool((flat == flat[0]).all()):
        return None
    value = scalar(flat[0])
    make = {"0": f"np.zeros({array.shape}", "1": f"np.ones({array.shape}"}.get(value, f"np.full({array.shape}, {value}")
    return [f"{name} = {make}, dtype={array.dtype.name!r})"]


def array_code(
    name: str, array: Array, spec: InputSpec | None, what: str, beside: dict[str, Array]
) -> tuple[str, list[str]]:
    """(generator it needs or "", lines). What cannot be written briefly goes into ``beside``."""
    short = constant(name, array)
    if short is not None:
        return "", short
    if array.size <= LITERAL:
        return "", wrapped(name, array)
    made = regenerate(name, array, spec, what) if spec is not None else None
    if made is not None:
        return made
    beside[name] = array
    return "", [f'{name} = beside["{name}"]  # {array.size} values']


def identifier(text: str, taken: tuple[str, ...] = ()) -> str:
    """A Python name for foreign text; never a keyword, never one of ``taken``."""
    word = re.sub(r"\W", "_", text, flags=re.ASCII).strip("_") or "layer"
    word = f"_{word}" if word[0].isdigit() else word
    while keyword.iskeyword(word) or word in taken:
        word += "_"
    return word


def keywords(values: dict[str, Any]) -> str:
    """``a=1, b=0.5`` for a call; names that are no identifiers are refused by the caller's schema, and here."""
    from bncheck.repro.standalone.subject import CannotWriteError

    for key, value in values.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII) or keyword.iskeyword(key):
            raise CannotWriteError(f"the keyword {key[:40]!r} is no Python name")
        if not literal(value):
            raise CannotWriteError(f"the value of the keyword {key} cannot be written as a literal")
    return ", ".join(f"{key}={plain(value)}" for key, value in values.items())


def literal(value: Any) -> bool:
    """Whether a value of a TOML file is plain data, be it in lists or tables."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and literal(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(literal, value))
    return isinstance(value, (bool, int, float, str, type(None)))


def plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(plain, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)
