"""The README and docs/ are true: their tables are those of the code, their figures are measured again, their commands
run. What is written, run and linked in each page beside that: test_docs.py."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import example_report
import pytest
from at_the_prompt import here
from conftest import CUSTOM, EXPORTS, PROGRAMS, finish, once
from example_report import EXAMPLE
from readme_tables import PAGES, README, TABLES, conventions, fill, places

from bncheck.cli import COMMANDS
from bncheck.scenario_files.shipped import find_scenarios

TEXTS = {page.stem: page.read_text(encoding="utf-8") for page in PAGES}
TEXT = TEXTS["README"]
# Placeholders of commands in running text → what the test puts there.
SCENARIOS = README.parent / "scenarios"
PLACES = {
    "RUN": "first", "CODE": "BN103", "CAUSE": "update-phase", "NAME": "all-ones", "FINDING": "BN103",
    "network.file=model.onnx": f"network.file={SCENARIOS / 'models' / 'opset15.onnx'}",
}  # fmt: skip
# Of commands on things of the reader's own test_docs.py runs the examples, on files that the pages show.
OWN = ("bncheck watch", "bncheck check", "bncheck diff")
# Commands that this test does not run, each with the reason.
NOT_RUN = {
    "bncheck COMMAND --help": "every command's --help is run by test_cli.py",
    "bncheck env remove --unused": "it would take environments away that other tests use",
    "bncheck run batch-invariance": "slow: networks of 169 and 53 layers; test_networks.py runs it as a slow test",
    "bncheck run --resume RUN": "test_run.py resumes a killed run",
    "bncheck run my-scenario.toml": "there is no such file; test_scenario_file.py loads scenarios by path",
    "bncheck run my-check.toml": "the command before it makes the file; test_project_commands.py loads it",
    "bncheck baseline show FILE": "test_gating.py shows one",
    "bncheck run --baseline bncheck-baseline.json": "test_ci.py makes and uses a baseline",
    "bncheck compare": "the name of a command, which needs two runs",
    "bncheck explain": "the name of a command, which needs a cause",
    "bncheck baseline update RUN FILE": "test_ci.py makes and uses a baseline",
    "bncheck run --baseline FILE": "test_ci.py makes and uses a baseline",
    "bncheck compare RUN RUN": "test_compare_runs.py compares runs",
    "bncheck run --executor dask://HOST:PORT": "test_fleet.py starts a scheduler and two workers (slow)",
    "bncheck run custom-layer --set network.custom=my_bn.py:MyBatchNorm2d": "test_torch_scenarios.py runs such a layer",
    "bncheck conventions --from keras --to torch": "slow: it makes Keras' environment; test_porting.py has the advice",
    "bncheck conventions -t torch==1.13.1 -t torch": "slow: torch 1.13.1 is a CUDA build of 3 GB",
}


@pytest.mark.parametrize("page", TEXTS)
def test_tables_are_those_of_the_code(page: str) -> None:
    assert fill(TEXTS[page]) == TEXTS[page], "run: python tests/tools/readme_tables.py"


def test_every_table_has_its_page() -> None:
    assert sorted(name for text in TEXTS.values() for name in places(text)) == sorted(TABLES)


@pytest.mark.parametrize("page", TEXTS)
def test_no_table_is_empty(page: str) -> None:
    for name in re.findall(r"<!-- (?:table|measured|example): (\w+) -->", TEXTS[page]):
        body = re.search(rf": {name} -->\n(.*?)<!-- end -->", TEXTS[page], re.DOTALL)
        assert body is not None
        assert body[1].count("\n") > 3, name


def test_the_conventions_of_torch_and_mxnet_are_measured_again(default_run: Path) -> None:
    rows = conventions(default_run)
    for target in ("torch", "mxnet"):
        assert rows[target] in TEXTS["conventions"]


def said(text: str) -> list[str]:
    """Words of what a run printed, without what depends on the machine: time, paths, sizes of rounding."""
    kept = re.sub(r"(?m)^ (took|report|kit|note|figures) .*$", "", text)
    kept = re.sub(r" BN901 .*?\n\n", "\n\n", kept, flags=re.DOTALL)
    kept = re.sub(r"(replay residual|rounding bound) [-+.\de]+", r"\1", kept)
    return kept.split()


def typed(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A line of a page as it stands, its placeholders filled."""
    name, *words = (PLACES.get(word, word) for word in shlex.split(line))
    assert name == "bncheck" and words[0] in {"--help", "run", *COMMANDS}
    return here(*words, cwd=folder, COLUMNS="100")


FIRST = re.search(r"<!-- example: first -->\n```console\n\$ (.*?)\n(.*?)```", TEXT, re.DOTALL)
assert FIRST is not None


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the first example was run, as the latest; what it printed is in printed.txt."""
    folder, empty, lock = once(tmp_path_factory, "readme-first")
    try:
        if empty:
            folder.mkdir()
            done = typed(FIRST[1], folder)
            assert done.returncode == 0, done.stderr
            (folder / "printed.txt").write_text(done.stdout)
    finally:
        finish(folder, lock)
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    """A folder of the test's own with the first example's run as "first" and as the latest."""
    shutil.copytree(first / "reports", tmp_path / "reports", symlinks=True)
    (tmp_path / "first").symlink_to((tmp_path / "reports" / "latest").resolve())
    return tmp_path


def test_the_first_example_prints_what_it_says(first: Path) -> None:
    assert said((first / "printed.txt").read_text()) == said(FIRST[2])


def test_the_example_report_is_made_in_one_go(folder: Path, tmp_path: Path) -> None:
    """Into a folder of the test: what is committed changes only when somebody asks for it."""
    example_report.publish(folder, tmp_path / "example")
    made = {str(path.relative_to(tmp_path / "example")) for path in (tmp_path / "example").rglob("*") if path.is_file()}
    committed = {str(path.relative_to(EXAMPLE)) for path in EXAMPLE.rglob("*") if path.is_file()}
    assert made == committed - set(example_report.KEPT)
    assert FIRST[1] == shlex.join(["bncheck", *example_report.COMMAND])


def commands() -> list[str]:
    """Every `bncheck …` of the running text of all pages, once."""
    kept = [re.sub(r"```.*?```|<!-- table.*?<!-- end -->", "", text, flags=re.DOTALL) for text in TEXTS.values()]
    spans = [span for text in kept for span in re.findall(r"`(bncheck [^`<>…]+)`", text)]
    return sorted({span for span in spans if not span.startswith(OWN)})


def test_what_is_not_run_is_still_there() -> None:
    assert set(NOT_RUN) <= set(commands())


def played_elsewhere(command: str) -> bool:
    """Whether it only names scenarios that other tests run, on these targets and more."""
    default = {"all-ones", "all-zeros", "probe"}  # of ``default_run``
    words = shlex.split(command)
    return words[:2] == ["bncheck", "run"] and set(words[2:]) <= {*default, *CUSTOM, *EXPORTS, *PROGRAMS}


def test_the_scenarios_of_commands_are_shipped() -> None:
    names = {path.stem for path in find_scenarios()}
    for command in filter(played_elsewhere, commands()):
        assert set(shlex.split(command)[2:]) <= names


@pytest.mark.parametrize(
    "command", [command for command in commands() if command not in NOT_RUN and not played_elsewhere(command)]
)
def test_commands_of_the_running_text_run(command: str, folder: Path) -> None:
    done = typed(command, folder)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_kit_is_where_the_page_says(folder: Path) -> None:
    block = re.search(r"# Reporting a bug\n\n```\n(.*?)```", TEXTS["kits"], re.DOTALL)
    assert block is not None
    run, repro, script = block[1].strip().splitlines()
    assert run == "bncheck run"
    # The first example's scenario is all that the next lines need.
    assert typed(repro, folder).returncode == 0
    assert script.startswith("uv run ")
    assert (folder / script.removeprefix("uv run ")).exists()


def test_the_two_commands_are_the_documented_ones() -> None:
    """CI takes the test command from here, word for word."""
    assert re.search(r"<!-- command: run -->\n```\npip install \. && bncheck run\n```", TEXT)
    assert re.search(r"<!-- command: test -->\n```\npip install '\.\[test\]' && python -m pytest [^\n]*\n```", TEXT)
