"""The pytest plugin: the fixture ``bn_watch``, and ``--bncheck`` to watch every test.

pytest loads this file wherever bncheck is installed, so it imports nothing until it is used.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bncheck.finding import Finding
    from bncheck.python.watching import Watch

WARN, FAIL = "warn", "fail"
# A test is no training: that its few steps on made-up numbers do not fill an average says nothing about the model.
OF_A_TEST = ("few-updates", "never-updated", "data-shift", "train-eval-gap")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("bncheck").addoption(
        "--bncheck",
        nargs="?",
        const=WARN,
        default=None,
        type=how,
        metavar="warn|fail",
        help="Watch the BatchNorm layers of every test; what is found is a warning, with --bncheck=fail a failure.",
    )


def how(text: str) -> str:
    if text in (WARN, FAIL):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither warn nor fail; write --bncheck={WARN} {text}, or put --bncheck behind the paths"
    )


@pytest.fixture
def bn_watch(request: pytest.FixtureRequest) -> Callable[..., Watch]:
    """``with bn_watch(model) as seen: …``; then ``seen.findings``, ``bncheck.assert_clean(seen)``.

    Without a model all normalising layers that run inside are followed."""

    def start(model: Any = None, **options: Any) -> Watch:
        from bncheck.python.watching import watch

        return watch(model, name=request.node.name, **options)

    return start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[Any]:
    wanted = item.config.getoption("--bncheck", default=None)
    if wanted is None or not imported():
        return (yield)
    from bncheck.python.watching import BatchNormWarning, one_sentence, watch

    seen = watch(name=item.name)
    try:
        with seen:
            found = yield
    except BaseException:
        faults = of_interest(seen)
        if faults:
            item.add_report_section("call", "bncheck", "\n".join(map(one_sentence, faults)))
        raise
    faults = of_interest(seen)
    if faults and wanted == FAIL:
        pytest.fail("\n".join(["bncheck watched this test:", *map(one_sentence, faults)]), pytrace=False)
    for fault in faults:
        path, line, _ = item.location
        item.warn(BatchNormWarning(f"{path}:{(line or 0) + 1}: {one_sentence(fault)}"))
    return found


def imported() -> bool:
    """Whether there is a framework to watch: one that the tests have imported."""
    from bncheck.python.hands import imported_backends

    return bool(imported_backends())


def of_interest(seen: Watch) -> tuple[Finding, ...]:
    return tuple(fault for fault in seen.faults if fault.cause not in OF_A_TEST) if seen.result is not None else ()
