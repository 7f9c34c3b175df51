"""What a reader meets first: plain words, and reports of a size that somebody reads."""

from __future__ import annotations

import ast
import lzma
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from at_the_prompt import here
from conftest import printed
from test_report_html import browser, needs_browser  # noqa: F401  # a fixture

from bncheck.diagnosis.rules import load_rules
from bncheck.gate.bar import read_verdict
from bncheck.report import markdown, render, summary
from bncheck.report.gallery import Gallery
from bncheck.report.html import page
from bncheck.report.terminal import text
from bncheck.run_folder.results import Results, read_results

PACKAGE = Path(__file__).parents[1] / "bncheck"
# Words of the workshop. They may stand in figures (-v), in the explanation of a rule, and in the docs.
WORKSHOP = re.compile(
    r"\b(probes?|probed|facets?|ULPs?|residuals?|yardsticks?|departs?|departing|drifts?|replay(s|ed)?)\b", re.IGNORECASE
)
FIGURES = ("replay residual",)  # keys of evidence that -v picks out
COMMANDS = re.compile(r"bncheck [a-z-]+( [\w\[\]./=-]+)*|--[a-z-]+|drifts\.csv|probes?--[\w-]+")
# Where sentences are made that stand on a first screen.
SPEAKING = ("diagnosis/rules", "diagnosis/lived", "diagnosis/held", "diagnosis/anatomy", "subjects", "gate", "commands",
            "report", "playing", "joining", "environments")  # fmt: skip
# Told where somebody asks for it by name: rules and their measurement are the subject there.
ASKED = ("commands/conventions.py",)


def workshop_words(text: str) -> list[str]:
    return [found[0] for found in WORKSHOP.finditer(COMMANDS.sub("", text))]


def sentences(path: Path) -> Iterator[str]:
    """Literals of a module that are prose: with a space in them, and neither docstrings nor keys of figures."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    quiet: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            quiet.add(id(body[0].value))
        if isinstance(node, ast.Dict):
            quiet |= {id(part) for key in node.keys if key is not None for part in ast.walk(key)}
    for node in ast.walk(tree):
        said = node.value if isinstance(node, ast.Constant) and id(node) not in quiet else ""
        if isinstance(said, str) and " " in said.strip() and said not in FIGURES:
            yield said


@pytest.mark.parametrize("folder", SPEAKING)
def test_no_word_of_the_workshop_stands_in_a_sentence(folder: str) -> None:
    paths = [path for path in sorted((PACKAGE / folder).rglob("*.py")) if str(path.relative_to(PACKAGE)) not in ASKED]
    assert paths
    found = {
        f"{path.relative_to(PACKAGE)}: {text[:160]}": words
        for path in paths
        for text in sentences(path)
        if (words := workshop_words(text))
    }
    assert not found, "\n".join(f"{where}  {words}" for where, words in found.items())


def test_no_word_of_the_workshop_stands_in_a_rules_title() -> None:
    assert {rule.code: rule.title for rule in load_rules() if workshop_words(rule.title)} == {}


LONGEST_TITLE = 100


def test_a_rules_title_fits_a_line() -> None:
    assert {rule.code: rule.title for rule in load_rules() if len(rule.title) > LONGEST_TITLE} == {}


# ------------------------------------------------------------------------------------------- what real runs say


def test_a_real_run_speaks_plainly(default_run: Path) -> None:
    """What the default run printed, and its report.md up to the figures."""
    assert workshop_words(str(printed(default_run)["stdout"])) == []
    results = read_results(default_run)
    (path,) = markdown.render(results, default_run)
    told = path.read_text(encoding="utf-8").partition("## Cases")[0]
    path.unlink()
    told += summary.text(results, read_verdict(default_run, results))
    assert workshop_words(re.sub(r"<details>.*?</details>", "", told, flags=re.DOTALL)) == []


class FirstView(HTMLParser):
    """What a page shows before anybody unfolds something; its first finding is unfolded."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.folded = self.summary = 0
        self.said: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.folded += tag == "details" and "open" not in dict(attrs)
        self.folded += tag in ("style", "svg", "code", "title")
        self.summary += tag == "summary"

    def handle_endtag(self, tag: str) -> None:
        self.folded -= self.folded > 0 and tag in ("details", "style", "svg", "code", "title")
        self.summary -= tag == "summary"

    def handle_data(self, data: str) -> None:
        if not self.folded or self.summary:
            self.said.append(data)


def test_the_first_view_of_a_page_speaks_plainly(twenty: Path) -> None:
    said = " ".join(FirstView((twenty / "index.html").read_text(encoding="utf-8")).said)
    assert "4 conventions" in said or "5 conventions" in said
    assert workshop_words(said.partition("Measured conventions")[0]) == []


# ---------------------------------------------------------------------------------------------------- budgets

RECORDED = Path(__file__).parent / "data" / "twenty-targets.json.xz"
SCREEN = 45  # lines of 100 columns
TALL, WEIGHT = 12_000, 2_000_000  # pixels at 1280, bytes


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run.json of ``bncheck run`` on the reference under 20 sets of rules: the default scenarios, nothing else."""
    folder = tmp_path_factory.mktemp("twenty")
    (folder / "run.json").write_bytes(lzma.decompress(RECORDED.read_bytes()))
    results = read_results(folder)
    (folder / "index.html").write_text(page(results, folder, Gallery(results, folder, 0)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def results(twenty: Path) -> Results:
    return read_results(twenty)


@pytest.fixture(scope="module")
def screen(results: Results, twenty: Path) -> str:
    return text(results, twenty, 100)


def test_twenty_targets_fit_on_a_screen(results: Results, screen: str) -> None:
    shown = screen.rstrip("\n").split("\n")
    assert len(results.targets) == 20 and len(shown) <= SCREEN
    assert max(map(len, shown)) <= 100
    assert " all-ones · forward                  14 of 19 agree  ≠ 4 targets  ✗ 2 targets" in shown
    assert " ≠ BN102 variance-divisor (convention): n-1 in 6, n in 13 of 20 targets (in 8 cases)" in shown


def test_every_target_is_told_on_demand(results: Results, twenty: Path) -> None:
    shown = text(results, twenty, 100, verbose=True)
    assert all(f" {name}@cpu" in shown for name in ("reference[onnx]", "reference[mxnet]", "reference[eps=1e-3]"))
    assert len(shown.split("\n")) > 20 * 13


def test_one_finding_per_rule_and_departing_side(screen: str) -> None:
    heads = re.findall(r"^ [✗!?≠] (BN\d+) [\w-]+ \((\w+)\)", screen, re.M)
    assert len(heads) == len(set(heads)) == 9


@pytest.mark.browser
@needs_browser
def test_the_page_of_twenty_targets_is_read_to_its_end(browser: Any, twenty: Path) -> None:  # noqa: F811
    assert height(browser, twenty) <= TALL and (twenty / "index.html").stat().st_size <= WEIGHT


def height(browser: Any, run: Path) -> int:  # noqa: F811
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto((run / "index.html").absolute().as_uri())
    found = int(tab.evaluate("document.documentElement.scrollHeight"))
    tab.close()
    return found


RULES = ("torch", "cudnn", "mxnet", "keras", "flax", "haiku", "paddle", "onnx")
TARGETS = (
    "reference",
    *(f"reference[{rules}]" for rules in RULES),
    *(f"reference[{rules},dtype=float32]" for rules in RULES),
    "reference[update_on=never]",
    "reference[variance_divisor=n]",
    "reference[eps=1e-3]",
)


@pytest.mark.slow
@pytest.mark.browser
@needs_browser
def test_a_run_on_twenty_targets_keeps_to_the_budgets(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    """The recorded one, made now, with its pictures."""
    words = (word for target in TARGETS for word in ("-t", target))
    done = here("run", *words, "--fail-on", "never", "--out", str(tmp_path / "run"), COLUMNS="100")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.rstrip("\n").split("\n")) <= SCREEN + 3  # how long it took, and where the report is
    assert workshop_words(done.stdout) == []
    render(tmp_path / "run", ("html",))
    assert height(browser, tmp_path / "run") <= TALL
    assert (tmp_path / "run" / "index.html").stat().st_size <= WEIGHT
