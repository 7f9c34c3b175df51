"""The pages of docs/ are true: their files are written, their commands and their Python run, beside torch."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from at_the_prompt import ROOT, bncheck
from beside_torch import run
from watched_lives import torch_python

from bncheck.cli import COMMANDS
from bncheck.diagnosis.rules import load_rules

DOCS = ROOT / "docs"
PAGES = ("watching", "checking", "recording")
# <!-- file: NAME -->, <!-- run -->, <!-- run after: COMMAND -->, <!-- python: FILE -->, <!-- python after: COMMAND -->
BLOCK = re.compile(r"<!-- (file|run|python)(?: after)?:? ?(.*?) ?-->\n```\w+\n(.*?)```", re.DOTALL)
# What the commands of running text are about, in the folder of a test: these have tests of their own.
NAMED = re.compile(r"`(bncheck [^`]+)`")


def blocks(page: str, kind: str) -> list[tuple[str, str]]:
    """(what stands behind the kind, the block) of each block of a page."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return [(about, body) for word, about, body in BLOCK.findall(text) if word == kind]


def write_files(page: str, folder: Path) -> None:
    for name, body in blocks(page, "file"):
        (folder / name).write_text(body, encoding="utf-8")


def prepare(command: str, folder: Path) -> None:
    """`python save.py`, in the interpreter that has the framework."""
    python, *words = shlex.split(command)
    assert python == "python"
    subprocess.run([str(torch_python()), *words], cwd=folder, check=True, capture_output=True)


def said(text: str) -> list[str]:
    return text.split()


CONSOLE = [(page, about, body) for page in PAGES for about, body in blocks(page, "run")]
PYTHON = [(page, about, body) for page in PAGES for about, body in blocks(page, "python")]


def ids(found: list[tuple[str, str, str]]) -> list[str]:
    return [f"{page}-{number}" for number, (page, *_) in enumerate(found)]


@pytest.mark.parametrize(("page", "before", "shown"), CONSOLE, ids=ids(CONSOLE))
def test_what_a_command_prints_is_what_the_page_shows(page: str, before: str, shown: str, tmp_path: Path) -> None:
    write_files(page, tmp_path)
    if before:
        prepare(before, tmp_path)
    command, _, output = shown.removeprefix("$ ").partition("\n")
    place = torch_python().parent
    known = {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(place.parent), "COLUMNS": "100"}
    done = bncheck(*shlex.split(command)[1:], cwd=tmp_path, **known)
    printed = " ".join(said(done.stdout + done.stderr))
    assert " ".join(said(output)) in printed, done.stdout + done.stderr


@pytest.mark.parametrize(("page", "about", "code"), PYTHON, ids=ids(PYTHON))
def test_the_python_of_a_page_runs(page: str, about: str, code: str, tmp_path: Path) -> None:
    """A file that is named comes before it; a command is run before it."""
    write_files(page, tmp_path)
    before = ""
    if about.startswith("python "):
        prepare(about, tmp_path)
    elif about:
        before = (tmp_path / about).read_text(encoding="utf-8")
    done = run(f"{before}\n{code}", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr


def test_the_writer_is_short_and_plain() -> None:
    """It is to be carried over into other languages."""
    (writer,) = [body for name, body in blocks("recording", "file") if name == "recording.py"]
    assert sum(bool(line.strip()) for line in writer.splitlines()) <= 30
    assert re.findall(r"^(?:import|from) .*", writer, re.MULTILINE) == ["import json, math"]


@pytest.mark.parametrize("page", PAGES)
def test_commands_causes_and_links_exist(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    for command in NAMED.findall(text):
        assert shlex.split(command)[1] in (*COMMANDS, "COMMAND"), command
    causes = {rule.cause for rule in load_rules()}
    for word in re.findall(r"cause `([a-z-]+)`", text):
        assert word in causes, word
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)\)", text):
        assert (DOCS / target).exists(), target


def test_ten_symptoms_lead_to_a_command() -> None:
    rows = re.findall(
        r"^\| (?!I see|---)(.+?) \| `bncheck (\w+)[^`]*` \| .+ \|$", (DOCS / "checking.md").read_text(), re.M
    )
    assert len(rows) == 10 and {verb for _, verb in rows} == {"watch", "check", "diff", "run"}


def test_the_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"(docs/{page}.md)" in text for page in PAGES)


def test_options_that_pages_name_exist() -> None:
    from bncheck.commands.watch import watch_command

    helped = {word for option in watch_command.params for word in option.opts}
    text = (DOCS / "watching.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(--(?:steps|keep|fail-on|python))\b", text))
    assert named <= helped and "--keep" in named
