"""Fixtures that cost something, made once for the whole test session, whatever the number of processes."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest
from at_the_prompt import here
from hypothesis import HealthCheck, settings
from nurseries import close_nurseries
from patience import measured, patience
from processes import complain, starts_process

TESTS = Path(__file__).parent

# In a GitHub job bncheck prints annotations and adds to the job's summary; what tests start must not.
for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
    os.environ.pop(name, None)

# The processes of pytest-xdist fill the cores already. A second thread of a framework then only waits, and counts as
# busy while it does: 31 cells of torch took 20 s of CPU with two threads and 4 s with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a test measures is measured in that test (test_kept.py has folders of its own).
os.environ["BNCHECK_CONVENTIONS"] = ""

# How long an example takes is the machine's matter, not the test's.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

measured()  # before the processes of pytest-xdist start: they share it


def pytest_report_header() -> str:
    return f"limits: {measured():.3g} times those of a quick machine"


# Modules whose tests take long and share only what ``once`` makes: each test goes to the process that has room.
APART = ("test_repro_everywhere", "test_attribution", "test_readme", "test_silence", "test_recovery")
# What takes longest starts first, so that no process is left with it at the end.
FIRST = ("test_backends", *APART, "test_torch_custom", "test_torch_scenarios", "test_run", "test_families",
         "test_live_problems", "test_ci", "test_minimise", "test_workers", "test_hostile_folders")  # fmt: skip


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Where nothing is compiled yet, processes collect one after the other: side by side each of them compiles all that
    it imports, which took 7 s of CPU time more."""
    last = max(TESTS.glob("test_*.py"))
    if sys.dont_write_bytecode or any((TESTS / "__pycache__").glob(f"{last.stem}.*")):
        return (yield)
    lock = os.open(TESTS, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return (yield)
    finally:
        os.close(lock)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))
    for item in items:
        if starts_process(item):
            item.add_marker(pytest.mark.process)
        group = group_of(item)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
        if config.getoption("timeout") is None:  # one that the command line gives is as long as it says
            own = item.get_closest_marker("timeout")
            seconds = float(own.args[0] if own else config.getini("timeout"))
            item.add_marker(pytest.mark.timeout(patience(seconds)), append=False)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    complain(item)


def pytest_sessionfinish() -> None:
    close_nurseries()


def group_of(item: pytest.Item) -> str:
    """Tests of one group run in one process, which makes what they share once; "" is a test on its own."""
    if item.path.stem in APART:
        return ""
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    target = given.get("played")  # of the contract test: all cells of one target
    return f"{item.path.stem} {target[0]}" if target else item.path.stem


def once(tmp_path_factory: pytest.TempPathFactory, name: str) -> tuple[Path, bool, int]:
    """A folder shared by all processes of this session, whether it is still to be filled, and the lock held on it."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    lock = os.open(root / f"{name}.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = root / name
    return folder, not (root / f"{name}.done").exists(), lock


def finish(folder: Path, lock: int) -> None:
    (folder.parent / f"{folder.name}.done").touch()
    os.close(lock)


def play(folder: Path, command: str, *arguments: str) -> None:
    """Run bncheck into ``folder``; what it printed and its exit code are kept beside. In this process: what it imports
    takes longer than judging a small run, and test_run.py starts it as people do."""
    assert command == "run"
    done = here(command, *arguments, "--out", str(folder))
    kept = {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(kept))


@pytest.fixture(scope="session")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that ``bncheck run`` makes: default scenarios on reference, torch and mxnet, all of them real."""
    folder, empty, lock = once(tmp_path_factory, "default-run")
    try:
        if empty:
            play(folder, "run")
    finally:
        finish(folder, lock)
    return folder


@pytest.fixture(scope="session")
def version_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All-ones and the probe on torch and three versions of mxnet."""
    folder, empty, lock = once(tmp_path_factory, "version-run")
    try:
        if empty:
            targets = ("torch", "mxnet==1.9.1", "mxnet==1.7.0.post2", "mxnet==1.6.0", "reference")
            play(folder, "run", "all-ones", "probe", *(word for name in targets for word in ("-t", name)))
    finally:
        finish(folder, lock)
    return folder


# What several modules look at is played once: the families on the quick targets, own layers beside the built-in one,
# and exports. Each scenario is its own regression test by its expectations.
FAMILIES = (
    "case-order", "copied-momentum", "cumulative-average", "empty-batch", "eval-one-sample", "eval-then-train",
    "exact-input", "flush-twice", "freezing", "gan-forwards", "layer-used-twice", "layouts", "low-precision-long-run",
    "micro-batches", "mode-toggles", "model-copies", "offset", "overflow", "poison-and-recovery", "recompute",
    "reload", "shared-buffers", "strided", "train-eval-gap", "value-counts", "without-parts",
)  # fmt: skip
CUSTOM = ("custom-layer", "custom-mistakes", "custom-graph", "running-batchnorm", "complex-batchnorm")
EXPORTS = ("export-legacy", "export-dynamo", "export-eval-net-train-bn", "onnx-file", "onnx-opsets",
           "onnx-fresh-network")  # fmt: skip
# Events and networks that the default scenarios have not, and that PyTorch with ONNX beside it plays as well.
PROGRAMS = ("reload", "frozen", "exact-input", "r0-tail", "recompute", "eval-one-sample", "mode-toggles",
            "hyperparameters")  # fmt: skip


def played(factory: pytest.TempPathFactory, name: str, scenarios: Iterable[str], *targets: str) -> Path:
    """A run of these scenarios; targets that are not here leave the tests that look at them to skip."""
    folder, empty, lock = once(factory, name)
    try:
        if empty:
            words = ("-t", "reference", *(word for target in targets for word in ("--optional", target)))
            play(folder, "run", *dict.fromkeys(scenarios), *words, "--no-report", "--fail-on", "never")
    finally:
        finish(folder, lock)
    return folder


@pytest.fixture(scope="session")
def family_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played(tmp_path_factory, "family-run", (*FAMILIES, *PROGRAMS), "torch", "mxnet")


@pytest.fixture(scope="session")
def custom_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played(tmp_path_factory, "custom-run", CUSTOM, "torch", "torch[builtin]")


@pytest.fixture(scope="session")
def export_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played(tmp_path_factory, "export-run", (*EXPORTS, *PROGRAMS), "torch[onnx]", "onnxruntime")


def printed(folder: Path) -> dict[str, str | int]:
    """What the run of a fixture printed: code, stdout, stderr."""
    found: dict[str, str | int] = json.loads((folder.parent / f"{folder.name}.json").read_text())
    return found
