"""The pytest plugin, in a pytest of its own beside a real framework."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module

import pytest
from at_the_prompt import ROOT
from beside_torch import run_all

TESTS = """
import pytest
import torch
from torch import nn


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))


def steps(model, batches):
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    for x in batches:
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()


def test_healthy():
    steps(network(), [torch.randn(8, 3, 6, 6) for _ in range(4)])


def test_poisoned():
    steps(network(), [torch.randn(8, 3, 6, 6), torch.full((8, 3, 6, 6), float("nan"))])


def test_that_fails_itself():
    steps(network(), [torch.full((8, 3, 6, 6), float("nan"))])
    assert False, "the test's own"


def test_without_a_model():
    assert 1 + 1 == 2


def test_fixture(bn_watch):
    import bncheck

    model = network()
    with bn_watch(model) as seen:
        steps(model, [torch.randn(8, 3, 6, 6), torch.full((8, 3, 6, 6), float("nan"))])
    assert [each.name for each in seen.lives[0].layers] == ["1"] and "poisoned-state" in [f.cause for f in seen.faults]
    with pytest.raises(AssertionError, match="poisoned-state"):
        bncheck.assert_clean(seen)
"""
# Where bncheck is installed its entry point would load the plugin a second time, under another name.
MAIN = """
import os, sys, pytest
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
os.environ.pop("PYTEST_ADDOPTS", None)
words = ["-p", "bncheck.python.plugin", "-p", "no:cacheprovider", "-rA", "test_of_a_user.py"]
sys.exit(pytest.main([*words, *{arguments!r}]))
"""
WANTED = {
    "warn": ["--bncheck"],
    "fail": ["--bncheck=fail", "-k", "healthy or poisoned or without"],
    "path": ["--bncheck", "tests/"],
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """Each in a pytest of its own."""
    base = tmp_path_factory.mktemp("plugin")
    folders = {base / name: MAIN.format(arguments=arguments) for name, arguments in WANTED.items()}
    for folder in folders:
        folder.mkdir()
        (folder / "test_of_a_user.py").write_text(TESTS)
    return {folder.name: ended for folder, ended in run_all(folders).items()}


def outcomes(text: str) -> dict[str, str]:
    found = [line.split() for line in text.splitlines() if line.startswith(("PASSED ", "FAILED "))]
    return {words[1].rpartition("::")[2]: words[0].lower() for words in found}


def test_findings_are_warnings(done: dict[str, subprocess.CompletedProcess[str]]) -> None:
    said = done["warn"].stdout
    assert outcomes(said) == {
        "test_healthy": "passed", "test_poisoned": "passed", "test_that_fails_itself": "failed",
        "test_without_a_model": "passed", "test_fixture": "passed",
    }, said + done["warn"].stderr  # fmt: skip
    warned = said[said.index("warnings summary") :]
    assert "poisoned-state" in warned and "test_of_a_user.py::test_poisoned" in warned
    assert "test_healthy" not in warned[: warned.index("PASSES")]
    failed = said[said.index("FAILURES") : said.index("warnings summary")]
    assert "the test's own" in failed and "poisoned-state" in failed


def test_findings_are_failures_where_that_is_asked_for(done: dict[str, subprocess.CompletedProcess[str]]) -> None:
    said = done["fail"].stdout
    assert outcomes(said) == {
        "test_healthy": "passed", "test_poisoned": "failed", "test_without_a_model": "passed"
    }, said + done["fail"].stderr  # fmt: skip
    assert "bncheck watched this test:" in said


def test_a_path_behind_the_option_is_said_so(done: dict[str, subprocess.CompletedProcess[str]]) -> None:
    assert done["path"].returncode == 4 and "put --bncheck behind the paths" in done["path"].stderr


def test_it_costs_nothing_until_it_is_used() -> None:
    """As an entry point it is imported by every pytest of an environment that has bncheck."""
    code = (
        "import sys, pytest\nbefore = set(sys.modules)\nimport bncheck.python.plugin\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["bncheck", "bncheck.python", "bncheck.python.plugin"]


def test_the_package_names_it() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert named == {"bncheck": "bncheck.python.plugin"}
    assert hasattr(import_module(named["bncheck"]), "pytest_addoption")


@pytest.mark.parametrize("text", ["warn", "fail"])
def test_the_words_of_the_option(text: str) -> None:
    from bncheck.python.plugin import how

    assert how(text) == text
