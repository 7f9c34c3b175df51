"""Whose error it is: where the traceback of an exception ended. Python 3.7 syntax; loaded by run.py by path.

An error has one of these *origins*:

``framework``  the framework refused what was asked of it: its own layer, on this input.
``subject``    the user's own code (``network.custom``, ``network.model``, ``network.file``), or what it asked of the
               framework: a shape that does not fit its next layer, an output that bncheck cannot read.
``import``     a file or a package of the user's that does not import in this interpreter.
``backend``    a backend file that came with ``--backend-file``.
``bncheck``    bncheck's own adapter.

**In a cell that plays code of the user's an error is not the framework's** merely because its traceback ends there: the
user's code asked for it. It is where the framework's own layer, in the same place and on the same batch, raises the
same words out of the same code (one value per channel): the adapter asks it, and the error carries the answer. A
traceback whose last Python line is the adapter's is bncheck's: it could not
deal with what it was handed (an AttributeError on an output, a value that does not fit a parameter).

**In every other cell** the innermost line decides that is neither the standard library's nor NumPy's, which only do as
they are told. What lies in the framework or in one of its own dependencies is the framework's.
Errors out of C++ have no lines of their own: their last line is the adapter's, at a call into the framework. There the
kind of error tells the two apart. Wrong names, keys and operands (AttributeError, NameError, KeyError, TypeErrors in
Python's own words) are mistakes of the file; RuntimeError and what the framework defines itself come out of the call. A
``raise`` that stands in the file is a refusal in the framework's name. ``run.py`` and what records for it call no
framework, and a backend without one (MODULE = "") has nothing behind it: what they do not raise on purpose is theirs.
What cannot be recorded of a backend file that came from outside was handed over by that file.
An error that knows better carries ``origin`` itself.
"""

import dis
import linecache
import os
import re
import sys
import sysconfig

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
TELLING = ("framework", "subject")  # errors that say something of what is looked at; the others say nothing
# Files of the worker that never call a framework.
OURS = tuple(os.path.join(HERE, name + ".py") for name in ("run", "cell", "recorder", "archive", "blame"))
MISTAKES = (AttributeError, NameError, LookupError, AssertionError, ArithmeticError, ImportError, RecursionError)
# Those of them that handle what a backend hands over.
RECORDING = tuple(os.path.join(HERE, name + ".py") for name in ("cell", "recorder"))
# TypeErrors in the words of Python itself, whoever wrote the function that was called.
PYTHON_WORDS = re.compile(
    r"unsupported operand type|unexpected keyword argument|required (positional|keyword-only) argument|positional "
    r"arguments? but|multiple values for|object is not (callable|iterable|subscriptable)|object does not support|"
    r"object cannot be interpreted as an integer|not supported between instances|must be (str|real number), not"
)
# An input whose shape a network cannot take: said about the input, for it is what can be changed.
DOES_NOT_FIT = re.compile(r"shape|size|dimension|channels?\b|\d-?D\b|per channel", re.IGNORECASE)


def paths_of(network, variant, module, events=()):
    """Files of the user's that this cell plays; none where the built-in layer stands in their place."""
    named = [network.get("model")] + ([network.get("custom")] if not variant.startswith("builtin") and module else [])
    named += [(event.get("arguments") or {}).get("function") for event in events]
    return [text.rpartition(":")[0] for text in named if text]


class Judge:
    """Says of an exception of one cell whose it is. ``own`` are the user's files (paths_of), ``whole`` whether one of
    them builds the whole network; ``module`` is the name of the framework's package, "" where there is none."""

    def __init__(self, own, whole, backend, module):
        self.own, self.whole, self.backend, self.module = own, whole, os.path.abspath(backend), module
        self.folders = [os.path.dirname(os.path.abspath(path)) for path in own if path.endswith(".py")]
        self.foreign = not self.backend.startswith(HERE + os.sep)

    def of(self, error):
        """(origin, "file.py, line 3: code" or ""): the line of the file that it is blamed on."""
        frames = list(walk(error.__traceback__))
        origin = getattr(error, "origin", None) or self.judge(error, frames)
        if origin == "called":  # raised in another process, by what was called there
            origin = "subject" if self.own else "framework"
        kinds = {"bncheck": ("bncheck",), "backend": ("backend",), "subject": ("subject",), "import": ("subject",)}
        mine = [frame[:2] for frame in frames if self.kind(frame[0]) in kinds.get(origin, ())]
        if isinstance(error, SyntaxError) and error.filename and error.lineno:
            mine = [(error.filename, error.lineno)]
        near = [frame for frame in mine if os.path.dirname(frame[0]) in self.folders]
        return origin, place(*(near or mine)[-1]) if mine else ""

    def judge(self, error, frames):
        kinds = [(self.kind(frame[0]), frame) for frame in frames]
        if isinstance(error, SyntaxError) and error.filename == self.backend:
            return "backend"
        last, frame = next(((kind, frame) for kind, frame in reversed(kinds) if kind), ("bncheck", None))
        if self.own:
            if isinstance(error, ImportError) and last != "bncheck":
                return "import"
            return last if last in ("bncheck", "backend") else "subject"
        if last not in ("bncheck", "backend"):
            return "framework"
        if frame is not None and frame[0] in RECORDING and self.foreign and not isinstance(error, OSError):
            return "backend"
        if frame is None or frame[0] in OURS:
            return "bncheck"
        if deliberate(frame[2]):
            return "framework"
        mistake = isinstance(error, MISTAKES) or (isinstance(error, TypeError) and PYTHON_WORDS.search(str(error)))
        return last if mistake or not self.module else "framework"

    def kind(self, path):
        """Whose file a line lies in; "" for those that only do as they are told."""
        if path == self.backend and not path.startswith(HERE + os.sep):
            return "backend"
        if path.startswith(HERE + os.sep):
            return "bncheck"
        if os.path.dirname(path) in self.folders:
            return "subject"
        if path.startswith("<") or inside(path, os.path.dirname(np.__file__)) or standard(path):
            return ""
        if not self.own:
            return "framework"
        package = getattr(sys.modules.get(self.module), "__file__", None)
        return "framework" if package and inside(path, os.path.dirname(package)) else "subject"

    def handed_over(self, error):
        """True if an error of a foreign backend came up where bncheck records what that handed over: None for an
        array, a shape that changes, a layer that it does not have."""
        frames = [frame for frame in walk(error.__traceback__) if self.kind(frame[0])]
        return bool(frames) and frames[-1][0] in RECORDING

    def refuses(self, error):
        """True for a NotImplementedError that says "not supported": of the adapter, or of a kernel of the framework.

        One that a layer of the user's raises itself (a forward that was never written) is an error like any other."""
        if not self.own:
            return True
        frames = list(walk(error.__traceback__))
        last = next((frame for frame in reversed(frames) if self.kind(frame[0])), None)
        return last is None or self.kind(last[0]) == "bncheck" or not deliberate(last[2])


def walk(trace):
    """(file, line, traceback entry) from the outermost call inwards."""
    while trace is not None:
        yield trace.tb_frame.f_code.co_filename, trace.tb_lineno, trace
        trace = trace.tb_next


def deliberate(entry):
    """True if the line is at a ``raise`` statement, and not in a call."""
    code = entry.tb_frame.f_code.co_code
    return 0 <= entry.tb_lasti < len(code) and dis.opname[code[entry.tb_lasti]] == "RAISE_VARARGS"


def inside(path, folder):
    return path.startswith(folder + os.sep)


def standard(path):
    """The standard library; the folder of installed packages may lie inside it."""
    packages = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
    return inside(path, sysconfig.get_paths()["stdlib"]) and not any(word in path for word in packages)


def place(path, line):
    code = linecache.getline(path, line).strip()
    return "%s, line %d%s" % (os.path.basename(path), line, ": " + code if code else "")


def worded(text, origin, where):
    """The error with the line it is blamed on behind it, where it does not name one already."""
    if not where or (text.endswith("]") and ", line " in text) or re.search(r"\(line \d+\)|, line \d+", text):
        return text
    return "%s [%s]" % (text, where)


def about_handed_over(error):
    return "your backend file hands over what cannot be recorded: %s: %s" % (type(error).__name__, error)


def about_input(text, shape):
    return "the input %s does not fit the network: %s" % (list(shape), text)
