"""The README and the pages of docs/ are true: their files are written, their commands and their Python run, beside
torch; what they name exists; their links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from at_the_prompt import ROOT, bncheck, here
from beside_torch import run_all
from readme_tables import DOCS, PAGES, README
from watched_lives import torch_python

import bncheck as package
from bncheck.cli import COMMANDS, cli
from bncheck.diagnosis.rules import load_rules

# <!-- file: NAME -->, <!-- run -->, <!-- run with PAGE after: COMMAND -->, <!-- python: FILE -->,
# <!-- python after: COMMAND -->. "with" is a page whose files are there as well, or a script that is train.py there.
BLOCK = re.compile(r"<!-- (file|run|python)(?: with (\S+))?( after)?(?:: (.*?))? -->\n```\w+\n(.*?)```", re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)")
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
# Options that pages name and that are not bncheck's: of pytest, pip, uv, python.
OF_OTHERS = {"--bncheck", "--no-deps"}


@dataclass(frozen=True)
class Block:
    """What a page shows as a file, a command with its output, or Python: ``before`` is a file or a command."""

    page: str
    kind: str
    along: str
    command: bool
    before: str
    body: str


def blocks(page: str, kind: str) -> list[Block]:
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [
        Block(page, word, along, bool(after), before, body)
        for word, along, after, before, body in found
        if word == kind
    ]


def write_files(block: Block, folder: Path) -> None:
    for page in filter(lambda name: name.endswith(".md"), (block.page, block.along)):
        for file in blocks(page, "file"):
            (folder / file.before).write_text(file.body, encoding="utf-8")
    if block.along.endswith(".py"):
        script = ROOT / block.along
        shutil.copy(script, folder / "train.py")
        shutil.copy(script.parents[1] / "parts.py", folder)
    if block.command:
        prepare(block.before, folder)


def prepare(command: str, folder: Path) -> None:
    """`python save.py`, in the interpreter that has the framework."""
    python, *words = shlex.split(command)
    assert python == "python"
    subprocess.run([str(torch_python()), *words], cwd=folder, check=True, capture_output=True)


CONSOLE = [block for page in NAMES for block in blocks(page, "run")]
PYTHON = [block for page in NAMES for block in blocks(page, "python")]


def ids(found: list[Block]) -> list[str]:
    return [f"{Path(block.page).stem}-{number}" for number, block in enumerate(found)]


@pytest.mark.parametrize("block", CONSOLE, ids=ids(CONSOLE))
def test_what_a_command_prints_is_what_the_page_shows(block: Block, tmp_path: Path) -> None:
    write_files(block, tmp_path)
    command, _, output = block.body.removeprefix("$ ").partition("\n")
    place = torch_python().parent
    known = {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(place.parent), "COLUMNS": "100"}
    _, verb, *words = shlex.split(command)
    # What a program that is watched prints is not seen from inside this process.
    done = (bncheck if verb == "watch" else here)(verb, *words, cwd=tmp_path, **known)
    printed = " ".join((done.stdout + done.stderr).split())
    assert " ".join(output.split()) in printed, done.stdout + done.stderr


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[Block, subprocess.CompletedProcess[str]]:
    """The Python of all pages. A file that is named comes before it; a command is run before it."""
    folders, codes = {}, {}
    for block in PYTHON:
        folder = folders[block] = tmp_path_factory.mktemp("program")
        write_files(block, folder)
        before = "" if block.command or not block.before else (folder / block.before).read_text(encoding="utf-8")
        codes[folder] = f"{before}\n{block.body}"
    done = run_all(codes)
    return {block: done[folder] for block, folder in folders.items()}


@pytest.mark.parametrize("block", PYTHON, ids=ids(PYTHON))
def test_the_python_of_a_page_runs(block: Block, programs: dict[Block, subprocess.CompletedProcess[str]]) -> None:
    done = programs[block]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr


def test_examples_are_found() -> None:
    """A marker that is misspelled would take its example out of the tests."""
    marked = [re.findall(r"<!-- (?:file|run|python)\b", page.read_text(encoding="utf-8")) for page in PAGES]
    assert sum(map(len, marked)) == len(CONSOLE) + len(PYTHON) + sum(len(blocks(page, "file")) for page in NAMES)
    assert len(CONSOLE) >= 6
    assert len(PYTHON) >= 6


def test_the_writer_is_short_and_plain() -> None:
    """It is to be carried over into other languages."""
    (writer,) = [file.body for file in blocks("docs/recording.md", "file") if file.before == "recording.py"]
    assert sum(bool(line.strip()) for line in writer.splitlines()) <= 30
    assert re.findall(r"^(?:import|from) .*", writer, re.MULTILINE) == ["import json, math"]


@pytest.mark.parametrize("page", NAMES)
def test_commands_options_and_causes_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    options = {word for name in COMMANDS for word in options_of(name)}
    for span in SPAN.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        own = span.partition(" -- ")[0].split()  # behind it stands the user's command
        allowed = options
        if own[:1] == ["bncheck"] and len(own) > 1 and not own[1].startswith("-"):
            assert own[1] in (*COMMANDS, "COMMAND"), span
            allowed = options_of(own[1]) if own[1] in COMMANDS else options
        elif not span.startswith("--"):
            continue
        for word in own:
            if word.startswith("--") and word != "--":
                assert word.partition("=")[0] in allowed | OF_OTHERS, span
    causes = {rule.cause for rule in load_rules()}
    for word in re.findall(r"cause `([a-z-]+)`", text):
        assert word in causes, word


def options_of(name: str) -> set[str]:
    """Options of a command and of its commands."""
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    inner = [command, *getattr(command, "commands", {}).values()]
    options = [option for each in inner for option in each.params]
    return {"--help"} | {word for option in options for word in (*option.opts, *option.secondary_opts)}


def anchors(text: str) -> set[str]:
    """GitHub's names of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target, anchor in LINK.findall(text):
        place = ROOT / Path(page).parent / target if target else ROOT / page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), f"{target}#{anchor}"


def test_twelve_symptoms_lead_to_a_command() -> None:
    rows = re.findall(
        r"^\| (?!I see|---)(.+?) \| `bncheck (\w+)[^`]*` \| .+ \|$", (DOCS / "checking.md").read_text(), re.M
    )
    assert len(rows) == 12 and {verb for _, verb in rows} == {"watch", "check", "diff", "run"}


# Questions of strangers, in their words (each stands for at least five public reports), and the command that answers.
ASKED = {
    "my model is good in train() and bad in eval()": (
        "Good in training, bad in eval",
        "bncheck watch -- python train.py",
    ),
    "the loss becomes NaN after some thousand steps": ("NaN from some step on", "bncheck watch -- python train.py"),
    "requires_grad=False, and the running mean moves": ("I froze the backbone", "bncheck watch -- python train.py"),
    "model and ONNX file differ": ("The ONNX file answers differently", "bncheck diff model.py:build model.onnx"),
    "the EMA teacher is much worse": ("EMA, SWA or an averaged model is worse", "bncheck diff model.pt ema.pt"),
    "accuracy drops after load_state_dict": ("Worse after loading a checkpoint", "bncheck check checkpoint.pt"),
    "is my hand-written BatchNorm equivalent?": ("Is my own BatchNorm layer right", "bncheck check my_bn.py:MyBatch"),
    "ValueError: Expected more than 1 value": ("Expected more than 1 value per", "bncheck explain single-value"),
    "ported to Keras, other numbers": ("from Keras to PyTorch", "bncheck conventions --from keras --to torch"),
    "DDP ranks disagree": ("Each rank of a distributed job", "bncheck watch -- torchrun --nproc-per-node 2 train.py"),
}


@pytest.mark.parametrize("question", ASKED)
def test_a_strangers_question_leads_to_its_command_in_two_clicks(question: str) -> None:
    """What they see and what to run stand in one line of a page that README links to, or of README itself."""
    sees, command = ASKED[question]
    clicked = ["README.md", *(link for link, _ in LINK.findall(README.read_text(encoding="utf-8")) if link in NAMES)]
    lines = [line for page in clicked for line in (ROOT / page).read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if sees in line and f"`{command}" in line]


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert [name for name in NAMES[1:] if f"({name})" not in text] == []


def test_every_name_of_the_python_module_is_documented() -> None:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    assert [name for name in package._PYTHON if f"`bncheck.{name}" not in text] == []
