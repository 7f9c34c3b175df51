"""A row of a recording as JSON, without the module ``json``: in the user's program that name may mean a file of theirs.

Loaded by recorder.py by path. Python 3.7 syntax.
"""

ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def json_of(value):
    """TypeError for what is no JSON: dicts with text as keys, lists, tuples, text, numbers, bool and None are."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return "{%s}" % ", ".join("%s: %s" % (quoted(str(name)), json_of(each)) for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return "[%s]" % ", ".join(map(json_of, value))
    raise TypeError("%s is nothing that a recording holds" % type(value).__name__)


def number(value):
    text = float.__repr__(value)
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)


def quoted(text):
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return '"%s"' % text
    return '"%s"' % "".join(map(escaped, text))


def escaped(letter):
    """Plain ASCII; other letters in units of UTF-16, as JSON has them."""
    if letter in ESCAPES:
        return ESCAPES[letter]
    code = ord(letter)
    if 32 <= code < 127:
        return letter
    if code < 0x10000:
        return "\\u%04x" % code
    return "\\u%04x\\u%04x" % (0xD800 + (code - 0x10000 >> 10), 0xDC00 + (code - 0x10000 & 0x3FF))
