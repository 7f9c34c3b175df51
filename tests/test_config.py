"""[tool.bncheck] and waiver files: what they say, and where they are wrong."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from bncheck.errors import ConfigurationError
from bncheck.gate.config import read_configuration, read_waivers
from bncheck.gate.configuration import Configuration
from bncheck.gate.project import find_configuration
from bncheck.gate.waiver import Waiver
from bncheck.scenario import Tolerance

WHOLE = """\
[project]
name = "mine"

[tool.bncheck]
targets = ["reference", "torch"]
optional = ["torch@cuda"]
scenarios = ["all-ones", "checks/own.toml"]
tolerances = { rtol = 1e-4, atol = 1 }
fail-on = "convention"
timeout = 60
baseline = "known.json"

[[tool.bncheck.waivers]]
cause = "update-phase"
scenario = "all-ones"
case = "forward"
targets = ["mxnet*"]
reason = "we flush"
expires = 2027-01-31
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_everything_it_may_say(tmp_path: Path) -> None:
    found = read_configuration(write(tmp_path, WHOLE))
    assert found == Configuration(
        path=tmp_path / "pyproject.toml",
        targets=("reference", "torch"),
        optional=("torch@cuda",),
        scenarios=("all-ones", str(tmp_path / "checks/own.toml")),
        tolerance=Tolerance(1e-4, 1.0),
        fail_on="convention",
        timeout=60.0,
        baseline=tmp_path / "known.json",
        waivers=(
            Waiver(
                "update-phase", "we flush", date(2027, 1, 31), "all-ones", "forward", ("mxnet*",), "pyproject.toml:13"
            ),
        ),
    )


def test_the_nearest_file_counts_and_one_that_says_nothing_is_no_fault(tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find_configuration(inner).fail_on == "convention"
    write(tmp_path / "a", "[project]\nname = 'x'\n")
    assert find_configuration(inner) == Configuration(path=tmp_path / "a" / "pyproject.toml")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('fail_on = "drift"', r'toml:2: tool.bncheck.fail_on: unknown key "fail_on"; .*did you mean "fail-on"'),
        ('fail-on = "drifts"', r'toml:2: tool.bncheck.fail-on: unknown level "drifts"; .*did you mean "drift"'),
        ('targets = "torch"', r'tool.bncheck.targets: .* is not a list; allowed: \["…", "…"\]'),
        ("targets = [3]", r"tool.bncheck.targets\[0\]: 3 is not a text"),
        ("tolerances = 3", "tool.bncheck.tolerances: 3 is not a table"),
        ("tolerances = { rtoll = 3 }", 'unknown key "rtoll"; allowed: rtol, atol; did you mean "rtol"'),
        ("tolerances = { rtol = -1 }", "tolerances.rtol: -1 is not a number of 0 or more"),
        ("tolerances = { rtol = nan }", "is not a number of 0 or more"),
        ("timeout = 0", "0 is too small"),
        ("timeout = true", "is not a number"),
        ("waivers = 3", r"3 is not a list of waivers; allowed: \[\[tool.bncheck.waivers\]\], or the path"),
        ("waivers = [3]", r"waivers\[0\]: 3 is not a table"),
    ],
)  # fmt: skip
def test_a_fault_says_where_and_what_is_allowed(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_configuration(write(tmp_path, f"[tool.bncheck]\n{line}\n"))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('cause = "eps"\nexpires = 2027-01-31', "has no reason; it is required"),
        ('cause = "eps"\nreason = "x"', "has no expires; it is required"),
        ('reason = "x"\nexpires = 2027-01-31', "needs a cause or a code, one of them"),
        ('cause = "eps"\ncode = "BN112"\nreason = "x"\nexpires = 2027-01-31', "needs a cause or a code, one of them"),
        ('cause = "epps"\nreason = "x"\nexpires = 2027-01-31', 'unknown cause "epps".*did you mean "eps"'),
        ('cause = "eps"\nreason = "x"\nexpires = "2027-01-31"', "is not a date; allowed: a day without quotes"),
        ('cause = "eps"\nreason = "x"\nexpires = 2027-01-31T10:00:00', "is not a date"),
        ('cause = "eps"\nreason = ""\nexpires = 2027-01-31', "reason: .* is not a text"),
        ('cause = "eps"\nreasons = "x"\nexpires = 2027-01-31', 'unknown key "reasons".*did you mean "reason"'),
    ],
)
def test_a_waiver_that_lacks_something_is_a_fault(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_configuration(write(tmp_path, f"[[tool.bncheck.waivers]]\n{lines}\n"))


def test_all_faults_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "[tool.bncheck]\ntimeout = -1\ntarget = []\n")
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(path)
    lines = caught.value.message.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}:2", f"{path}:3"]


def test_waivers_may_have_a_file_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text('[[waivers]]\ncode = "BN1*"\nreason = "known"\nexpires = 2027-01-31\n')
    expected = (Waiver("BN1*", "known", date(2027, 1, 31), where="w.toml:1"),)
    assert read_configuration(write(tmp_path, '[tool.bncheck]\nwaivers = "w.toml"\n')).waivers == expected
    assert read_waivers(tmp_path / "w.toml") == expected


def test_a_waiver_file_that_is_missing_or_wrong_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no file"):
        read_waivers(tmp_path / "none.toml")
    (tmp_path / "w.toml").write_text("[[waiver]]\n")
    with pytest.raises(ConfigurationError, match=r'w\.toml:1: waiver: unknown key "waiver".*did you mean "waivers"'):
        read_waivers(tmp_path / "w.toml")


def test_what_is_not_toml_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"pyproject\.toml:1: this is not valid TOML"):
        read_configuration(write(tmp_path, "[tool.bncheck\n"))
