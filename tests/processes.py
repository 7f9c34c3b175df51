"""Which tests start a process: a worker, what makes an environment, bncheck itself, a script. They get the marker
``process``, and what is left without it is the quick loop.

Nobody marks a test by hand: what it and its fixtures name, through the functions of tests/, is followed to what starts
one. What this does not see is caught when the test runs: one that starts a Python or uv without the marker fails.
"""

from __future__ import annotations

import functools
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import pytest
from at_the_prompt import here

from bncheck.environments.interpreters import ask, ask_all, find_interpreters
from bncheck.environments.pythons import parse_pythons, prepare
from bncheck.playing.begun import begun
from bncheck.playing.nursery import Nursery
from bncheck.playing.readied import Readied
from bncheck.playing.workers import play
from bncheck.subjects.interpreter import find_python
from bncheck.subjects.launch import launch

TESTS = str(Path(__file__).parent) + os.sep
STARTERS = (subprocess.run, subprocess.Popen, pty.fork, ask, ask_all, find_interpreters, parse_pythons, prepare, play,
            launch, Nursery, Readied, begun, find_python)  # fmt: skip
PLAYING = {"run", "conventions", "watch"}  # commands that start workers, also when they are called in this process
KNOWN = frozenset(map(id, STARTERS))
harmless: set[object] = set()  # functions that are known to lead to none of them: thousands of tests share few
started: list[str] = []  # by the test that runs now


def starts_process(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function):
        return False
    made = (definition.func for found in item._fixtureinfo.name2fixturedefs.values() for definition in found)
    return any(map(starts, (item.function, *made)))


@functools.cache  # thousands of tests share few functions and fixtures
def starts(function: object) -> bool:
    seen: set[object] = set()
    if leads_to_starter(function, seen):
        return True
    harmless.update(seen)
    return False


def leads_to_starter(thing: object, seen: set[object]) -> bool:
    """Whether a function of tests/, or the functions that it names, name one that starts a process."""
    if id(thing) in KNOWN:
        return True
    if isinstance(thing, MethodType):
        thing = thing.__func__
    if isinstance(thing, FunctionType) and hasattr(thing, "hypothesis"):
        thing = thing.hypothesis.inner_test
    if not isinstance(thing, FunctionType) or not thing.__code__.co_filename.startswith(TESTS):
        return False
    if thing in seen or thing in harmless:
        return False
    seen.add(thing)
    return any(leads_to_starter(named, seen) for named in named_in(thing))


@functools.cache  # of a thousand functions that are asked about, most name the same ones
def named_in(function: FunctionType) -> tuple[object, ...]:
    return tuple(found_in(function))


def found_in(function: FunctionType) -> Iterator[object]:
    names, constants = set(names_of(function.__code__)), set(constants_of(function.__code__))
    for name in names:
        found = function.__globals__.get(name)
        yield found
        if isinstance(found, ModuleType):
            yield from (vars(found).get(part) for part in names)
        if found is here and constants & PLAYING:
            yield play


def names_of(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from names_of(part)


def constants_of(code: CodeType) -> Iterator[object]:
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from constants_of(part)
        yield from part if isinstance(part, tuple) else (part,)


def watch(event: str, details: tuple[Any, ...]) -> None:
    """Pictures may ask the system for its fonts, and a browser is one; what costs is a Python or what installs it."""
    if event == "subprocess.Popen" and Path(str(details[0])).name.startswith(("python", "uv")):
        started.append(" ".join(map(str, details[1])))


def complain(item: pytest.Item) -> None:
    """After a test and its fixtures."""
    said = [*started]
    started.clear()
    if said and item.get_closest_marker("process") is None:
        pytest.fail(f"starts a process unseen by tests/processes.py, which gives the marker: {said[0]}", pytrace=False)


sys.addaudithook(watch)
