"""The wire format of protobuf, as far as an ONNX file needs it. Loaded by file.py by path; Python 3.7 syntax.

Nothing is taken on trust: every length is checked, and what is wrong is a FileError, one sentence.
"""


class FileError(Exception):
    """What is wrong with an ONNX file, in a sentence."""

    origin = "subject"  # whose error it is, in the words of blame.py


def fields(data, what):
    """(number, value) of every field of a message; numbers as int, the rest as memoryview."""
    at, end = 0, len(data)
    while at < end:
        key, at = varint(data, at, what)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at, what)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        elif kind == 2:
            size, at = varint(data, at, what)
            value, at = data[at : at + size], at + size
        else:
            raise FileError("%s is not protobuf (wire type %d): the file is damaged, or no ONNX file" % (what, kind))
        if at > end:
            raise FileError("%s ends in the middle of a field: the file is truncated" % what)
        yield key >> 3, value


def varint(data, at, what):
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise FileError("%s ends in the middle of a number: the file is truncated or damaged" % what)
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def signed(value):
    return value - 2**64 if value >= 2**63 else value


def text(value):
    return bytes(value).decode("utf-8", "replace") if not isinstance(value, int) else str(value)


def numbers(value):
    """A repeated int64: one number, or many packed into one field."""
    if isinstance(value, int):
        return [signed(value)]
    found, at = [], 0
    while at < len(value):
        item, at = varint(value, at, "a list of numbers")
        found.append(signed(item))
    return found
