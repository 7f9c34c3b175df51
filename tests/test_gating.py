"""The command line of CI: [tool.bncheck] behind the options, baseline commands, -v, --quiet, NO_COLOR, completion."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from at_the_prompt import bncheck, here

from bncheck.commands.gating import tell_verdict
from bncheck.gate.bar import Judged, Verdict
from bncheck.gate.charge import Charge
from bncheck.gate.shortfall import Shortfall
from bncheck.gate.waiver import Waiver

ROOT = Path(__file__).parent.parent
CONFIGURED = """\
[tool.bncheck]
targets = ["reference", "reference[batch_weight=0.9]"]
scenarios = ["all-ones"]
fail-on = "convention"
tolerances = { rtol = 10, atol = 10 }
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(CONFIGURED)
    return tmp_path


def test_the_file_says_what_the_command_line_does_not(repo: Path) -> None:
    (repo / "pyproject.toml").write_text(CONFIGURED.replace("tolerances", "# tolerances"))
    (repo / "inside").mkdir()
    done = here("run", "--no-report", "--out", "a", cwd=repo / "inside")
    assert done.returncode == 1, done.stderr
    found = json.loads((repo / "inside" / "a" / "run.json").read_text())
    assert [target["name"] for target in found["targets"]] == ["reference", "reference[batch_weight=0.9]"]
    assert [scenario["name"] for scenario in found["scenarios"] if not scenario["probe"]] == ["all-ones"]


def test_the_command_line_beats_the_file(repo: Path) -> None:
    arguments = ("run", "batch-sizes", "-t", "reference", "--no-reference", "--fail-on", "never", "--no-report")
    done = here(*arguments, "--out", "a", cwd=repo)
    assert done.returncode == 0, done.stderr
    found = json.loads((repo / "a" / "run.json").read_text())
    assert [target["name"] for target in found["targets"]] == ["reference"]
    assert [scenario["name"] for scenario in found["scenarios"] if not scenario["probe"]] == ["batch-sizes"]
    assert json.loads((repo / "a" / "gate.json").read_text())["fail_on"] == "never"


def test_the_file_s_tolerance_is_for_scenarios_that_state_none_and_survives_a_resume(repo: Path) -> None:
    assert here("run", "-q", "--no-report", "--no-probe", "--out", "a", cwd=repo).returncode == 0
    found = json.loads((repo / "a" / "run.json").read_text())
    assert [(scenario["rtol"], scenario["atol"]) for scenario in found["scenarios"]] == [(10.0, 10.0)]
    assert {drift["verdict"] for drift in found["drifts"]} == {"agrees"}
    (repo / "pyproject.toml").write_text("")
    assert here("run", "--resume", "a", "-q", "--no-report", cwd=repo).returncode == 0
    assert json.loads((repo / "a" / "run.json").read_text())["scenarios"][0]["rtol"] == 10.0


def test_a_fault_in_the_file_is_a_sentence_and_nothing_is_run(repo: Path) -> None:
    (repo / "pyproject.toml").write_text('[tool.bncheck]\nfail_on = "drift"\n')
    done = here("run", "--out", "a", cwd=repo)
    assert done.returncode == 2
    assert 'pyproject.toml:2: tool.bncheck.fail_on: unknown key "fail_on"' in done.stderr
    assert not (repo / "a").exists()


def test_a_baseline_is_written_shown_and_missed(repo: Path) -> None:
    missing = here("run", "--baseline", "none.json", "--out", "a", cwd=repo)
    assert missing.returncode == 2
    assert "There is no baseline none.json.\n  → make one" in missing.stderr
    assert not (repo / "a").exists()
    (repo / "pyproject.toml").write_text(CONFIGURED.replace("tolerances", "# tolerances"))
    here("run", "-q", "--no-report", "--out", "a", cwd=repo)
    told = here("baseline", "update", "a", "known.json", cwd=repo)
    assert told.stdout == "known.json: 2 known (2 new, 0 gone)\n"
    before = (repo / "known.json").read_bytes()
    assert here("baseline", "update", "a", "known.json", cwd=repo).stdout == "known.json: 2 known (0 new, 0 gone)\n"
    assert (repo / "known.json").read_bytes() == before
    shown = here("baseline", "show", "known.json", cwd=repo).stdout.splitlines()
    assert shown[0] == (
        "all-ones · forward: batch-weight (convention) between reference and reference[batch_weight=0.9]: "
        "bn.running_mean off by 0.08801, 100.0 % explained"
    )
    assert len(shown) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shard", "3/2"), "--shard 3/2 is not a part of a whole."),
        (("--durations", "a"), "--durations balances the parts of --shard"),
        (("--shard", "1/2", "--durations", "none"), "There is no run folder none."),
        (("--waivers", "none.toml"), "There is no file none.toml."),
    ],
)
def test_what_cannot_be_is_a_sentence(repo: Path, arguments: tuple[str, ...], said: str) -> None:
    done = here("run", *arguments, "--out", "a", cwd=repo)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (repo / "a").exists()


def test_verbose_prints_the_workers_commands_and_every_cell(repo: Path) -> None:
    done = here("run", "-v", "-t", "reference", "--no-probe", "--no-report", "--out", "a", cwd=repo)
    assert "-I " in done.stderr
    assert "worker/run.py" in done.stderr.replace(os.sep, "/")
    assert "1/2 reference all-ones--forward: ok" in done.stderr


def test_no_color_and_quiet(repo: Path) -> None:
    arguments = ("--no-probe", "--no-report")
    colour = here("run", *arguments, "--out", "a", cwd=repo, FORCE_COLOR="1")
    plain = here("run", *arguments, "--out", "b", cwd=repo, FORCE_COLOR="1", NO_COLOR="1")
    quiet = bncheck("run", *arguments, "-q", "--out", "c", cwd=repo)
    assert "\x1b[3" in colour.stdout
    assert "\x1b[3" not in plain.stdout
    assert (quiet.stdout, quiet.stderr) == ("", "")


def test_annotations_leave_json_alone(repo: Path) -> None:
    (repo / "pyproject.toml").write_text(CONFIGURED.replace("tolerances", "# tolerances"))
    done = here("run", "--json", "--github", "--no-report", "--out", "a", cwd=repo)
    assert json.loads(done.stdout)["format"] == 1
    assert done.stderr.startswith("::error title=bncheck BN106 batch-weight::")


@pytest.mark.parametrize(
    ("words", "position", "expected"),
    [
        ("bncheck base", "1", "baseline"),
        ("bncheck run --fail-on n", "3", "never"),
        ("bncheck compare --gi", "2", "--github"),
    ],
)
def test_a_shell_can_complete(tmp_path: Path, words: str, position: str, expected: str) -> None:
    variables = {"COMP_WORDS": words, "COMP_CWORD": position, "_BNCHECK_COMPLETE": "bash_complete"}
    done = bncheck(cwd=tmp_path, **variables)
    assert done.stdout == f"plain,{expected}\n"


def test_version(tmp_path: Path) -> None:
    from bncheck import __version__

    assert here("--version", cwd=tmp_path).stdout == f"bncheck, version {__version__}\n"


# ------------------------------------------------------------------------ every exit code but 0 has its line

LATE = Waiver("update-phase", "until the port is done", date(2026, 1, 31), where="waivers.toml:3")


def charge(kind: str, cause: str, sentence: str, case: str = "forward") -> Charge:
    return Charge(kind, "", cause, "all-ones", case, (("mxnet",), ("torch",)), ("mxnet", "torch"), sentence)


UNMET = charge("expectation", "expectation", "mxnet and torch were expected to agree; found eps.", "")
VERDICTS = {
    "expectation": (
        Verdict(judged=(Judged(UNMET, "fails"),)),
        [
            " ✗ expectation in all-ones: mxnet and torch were expected to agree; found eps.",
            " verdict  1 expectation did not come true (exit code 1)",
        ],
        "exit code 1: 1 expectation did not come true: "
        "expectation in all-ones: mxnet and torch were expected to agree; found eps.",
    ),
    "drift": (
        Verdict("drift", judged=(Judged(charge("drift", "drift", "bn.gamma is off by 0.5."), "fails"),)),
        [
            " ✗ drift in all-ones · forward: bn.gamma is off by 0.5.",
            " verdict  1 difference without a finding at or above --fail-on drift (exit code 1)",
        ],
        "exit code 1: 1 difference without a finding at or above --fail-on drift: "
        "drift in all-ones · forward: bn.gamma is off by 0.5.",
    ),
    "crash": (
        Verdict("never", judged=(Judged(charge("crashed", "crash", "mxnet crashed: SIGFPE"), "fails"),)),
        [
            " ✗ crash in all-ones · forward: mxnet crashed: SIGFPE",
            " verdict  1 cell crashed or timed out (exit code 3)",
        ],
        "exit code 3: 1 cell crashed or timed out: crash in all-ones · forward: mxnet crashed: SIGFPE",
    ),
    "finding of the table": (
        Verdict(judged=(Judged(charge("defect", "eps", "mxnet adds eps outside."), "fails"),)),
        [" verdict  1 finding at or above --fail-on defect (exit code 1)"],
        "exit code 1: 1 finding at or above --fail-on defect: eps in all-ones · forward: mxnet adds eps outside.",
    ),
    "finding of no case": (
        Verdict(judged=(Judged(Charge("defect", "BN205", "layout", "", "", (), (), "torch has mean 0."), "fails"),)),
        [" verdict  1 finding at or above --fail-on defect (exit code 1)"],
        "exit code 1: 1 finding at or above --fail-on defect: BN205 layout: torch has mean 0.",
    ),
    "new finding": (
        Verdict("convention", True, (Judged(charge("defect", "eps", "mxnet adds eps outside."), "fails", "new"),)),
        [" ✗ eps in all-ones · forward: new", " verdict  1 finding new or worse (exit code 1)"],
        "exit code 1: 1 finding new or worse: eps in all-ones · forward: mxnet adds eps outside.",
    ),
    "waiver": (
        Verdict(expired=(LATE,)),
        [
            " ! waivers.toml:3: the waiver of update-phase expired on 2026-01-31: until the port is done",
            " verdict  1 expired waiver (exit code 1)",
        ],
        "exit code 1: 1 expired waiver: "
        "waivers.toml:3: the waiver of update-phase expired on 2026-01-31: until the port is done",
    ),
    "nothing compared": (
        Verdict("never", missed=(Shortfall("Nothing was compared: torch ran", "name two", "nothing was compared"),)),
        [" verdict  nothing was compared (exit code 3)"],
        "exit code 3: Nothing was compared: torch ran",
    ),
    "missing, and a finding": (
        Verdict(
            judged=(Judged(charge("defect", "eps", "mxnet adds eps outside."), "fails"),),
            missed=(Shortfall("torch@cuda is unavailable: no GPU", "get one", "torch@cuda did not run"),),
        ),
        [" verdict  torch@cuda did not run and 1 finding at or above --fail-on defect (exit code 3)"],
        "exit code 3: torch@cuda is unavailable: no GPU; 1 finding at or above --fail-on defect",
    ),
}  # fmt: skip
LOUD = {"quiet": False, "as_json": False, "github": False}


@pytest.mark.parametrize("way", VERDICTS)
@pytest.mark.parametrize("silence", [{"quiet": True}, {"as_json": True}, {}])
def test_every_way_to_fail_has_its_line(
    way: str, silence: dict[str, bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict, lines, line = VERDICTS[way]
    assert verdict.exit_code in (1, 3)
    tell_verdict(tmp_path, verdict, LOUD | silence)
    said = capsys.readouterr()
    if silence:
        assert (said.out, said.err) == ("", f"bncheck: {line}\n")
    else:
        assert said.out.splitlines() == lines
        assert said.err == "".join(f"bncheck: {item.sentence}.\n  → {item.remedy}\n" for item in verdict.missed)


def test_a_pass_says_nothing_and_what_was_waived_or_not_checked_is_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_verdict(tmp_path, Verdict(), LOUD)
    tell_verdict(tmp_path, Verdict(judged=(Judged(UNMET, "below", "--fail-on never"),)), LOUD | {"quiet": True})
    assert capsys.readouterr() == ("", "")
    waived = Judged(
        charge("convention", "update-phase", "x"), "waived", "until 2027-01-31: mxnet is archived (w.toml:1)"
    )
    open_one = replace(UNMET, sentence="mxnet and torch were expected to agree when n = 1; not checked.", case="n = 1")
    tell_verdict(tmp_path, Verdict(judged=(waived, Judged(open_one, "unchecked", "no conventions"))), LOUD)
    assert capsys.readouterr().out.splitlines() == [
        " ~ update-phase in all-ones · forward: waived until 2027-01-31: mxnet is archived (w.toml:1)",
        " – all-ones: mxnet and torch were expected to agree when n = 1; not checked: no conventions",
        " verdict  nothing at or above --fail-on defect (1 waived, 1 not checked)",
    ]


def test_an_error_of_the_user_s_code_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = charge("subject-error", "refusal", "your code raises ValueError: no")
    tell_verdict(tmp_path, Verdict("convention", True, (Judged(error, "fails", "new"),)), LOUD)
    said = capsys.readouterr()
    assert said.out.splitlines() == [" verdict  2 cells could not be played (exit code 2)"]
    assert said.err.count("ValueError") == 1


def test_thousands_of_drifts_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = tuple(Judged(charge("drift", "drift", "off.", f"c{number}"), "fails") for number in range(1000))
    tell_verdict(tmp_path, Verdict("drift", judged=many), LOUD)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 22
    assert said[-2] == " ✗ and 980 more that fail; all of them are in gate.json"


def test_one_target_is_compared_with_the_reference_and_one_that_is_lost_fails(repo: Path) -> None:
    (repo / "pyproject.toml").write_text('[tool.bncheck]\ntargets = ["reference[batch_weight=0.9]", "mlx@cuda"]\n')
    arguments = ("run", "all-ones", "--no-probe", "--no-report")
    single = here(*arguments, "-t", "torch@mps", "--optional", "torch@xpu", "-q", "--out", "a", cwd=repo)
    assert single.returncode == 3
    assert single.stdout == ""
    assert single.stderr.startswith("bncheck: exit code 3: torch@mps was asked for and is unavailable: ")
    assert single.stderr.count("\n") == 1
    plan = json.loads((repo / "a" / "plan.json").read_text())
    assert plan["targets"] == ["reference", "torch@mps", "torch@xpu"]
    assert plan["required"] == ["torch@mps"]
    kept = here("run", "--resume", "a", "-q", "--no-report", cwd=repo)
    assert (kept.returncode, kept.stderr) == (3, single.stderr)


def test_a_run_without_probes_does_not_fail_a_scenario_s_own_expectation(repo: Path) -> None:
    (repo / "pyproject.toml").write_text("")
    (repo / "own.toml").write_text(
        'title = "own"\nwhy = "a cause that only measured conventions can name"\n'
        '[network]\nlayers = [{ name = "bn", type = "batch_norm" }]\n[input]\nshape = [4, 3]\n'
        '[program]\nrepeat = 5\nevents = ["train_forward"]\n'
        '[[expect]]\nbetween = ["reference", "reference[batch_weight=0.9]"]\ncause = "batch-weight"\n'
    )
    arguments = ("run", "own.toml", "-t", "reference", "-t", "reference[batch_weight=0.9]", "--no-probe")
    done = here(*arguments, "--out", "a", cwd=repo)
    assert done.returncode == 0, done.stdout + done.stderr
    reason = "no conventions were measured (--no-probe), and only they can name batch-weight"
    expected = "reference and reference[batch_weight=0.9] were expected to show batch-weight"
    assert f" – own: {expected}; not checked: {reason}" in done.stdout
    (judged,) = [item for item in json.loads((repo / "a" / "gate.json").read_text())["judged"]
                 if item["standing"] == "unchecked"]  # fmt: skip
    assert judged["note"] == reason
    for name, word in (("summary.md", "Not checked"), ("junit.xml", "not checked"), ("index.html", "not checked")):
        assert word in (repo / "a" / name).read_text(), name
    assert here("report", "a", "--format", "markdown", cwd=repo).returncode == 0
    assert "not checked" in (repo / "a" / "report.md").read_text()
