"""``summary.md``: the run as GitHub shows it on a job's page. What fails comes first, then the matrix, then the rest.

GitHub drops a summary above 1 MiB altogether, so this one ends after the last whole row that fits, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from bncheck.finding import KINDS
from bncheck.gate.bar import Judged, Verdict, read_verdict
from bncheck.gate.blamed import REMEDIES
from bncheck.gate.charge import Charge
from bncheck.report import answer_text
from bncheck.report.gallery import Gallery
from bncheck.report.layers import Told, told_of
from bncheck.report.overview import ENDINGS, GIST, NUMBER, heading, headline, make_matrix
from bncheck.report.plain_text import clean, kinded, one_line, plural, share
from bncheck.run_folder.results import CRASHED, Results
from bncheck.run_folder.whole import write_whole

NAME = "summary"
LIMIT = 1000 * 1024  # below 1024 kB in either sense of kB, with room for what other steps wrote
LONGEST_ROW = 4000
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~])")


def render(results: Results, run_folder: Path, gallery: Gallery | None = None) -> list[Path]:
    path = run_folder / "summary.md"
    write_whole(path, text(results, read_verdict(run_folder, results), told=told_of(results, run_folder)))
    return [path]


def text(results: Results, verdict: Verdict, limit: int = LIMIT, told: Told | None = None) -> str:
    """The Markdown, at most ``limit`` bytes of UTF-8."""
    return fit(list(lines(results, verdict, told)), limit)


def fit(found: list[str], limit: int) -> str:
    """Whole lines up to the limit; the last one says how many are missing."""
    sizes = [len(line.encode()) + 1 for line in found]
    if sum(sizes) <= limit:
        return "\n".join(found) + "\n"
    room = limit - 200
    kept = 0
    while kept < len(found) and sizes[kept] <= room:
        room -= sizes[kept]
        kept += 1
    left = sum(bool(line) for line in found[kept:])
    return "\n".join(found[:kept]) + f"\n\n*{left} more lines did not fit; all of them are in the HTML report.*\n"


def lines(results: Results, verdict: Verdict, told: Told | None = None) -> Iterator[str]:
    mark = "✅" if verdict.exit_code == 0 else "❌"
    yield f"## {mark} bncheck: {prose(ruling(verdict))}"
    yield ""
    yield prose(headline(results) if told is None else told.answer.headline)
    yield ""
    yield from missed(verdict)
    # Of an answer the findings come next, each with its fix.
    yield from charged("Fails", [item for item in verdict.of("fails") if told is None or not item.charge.code])
    yield from waivers(verdict)
    yield from matrix(results) if told is None else answer_text.summary(told, prose)
    yield from unavailable(results)
    yield from charged("Waived", verdict.of("waived"))
    yield from charged("Not checked", verdict.of("unchecked"))
    yield from folded("Known from the baseline", verdict.of("known"))
    yield from folded(f"Below the level that fails (--fail-on {verdict.fail_on})", verdict.of("below"))
    yield from ending(results)


def ruling(verdict: Verdict) -> str:
    """How it went, in a sentence without its full stop."""
    failing, expired = verdict.of("fails"), len(verdict.expired) if verdict.fail_on != "never" else 0
    new = "new or worse" if verdict.with_baseline else f"at or above --fail-on {verdict.fail_on}"
    crashes, expectations, drifts = (
        sum(item.charge.kind in kinds for item in failing) for kinds in (CRASHED, ("expectation",), ("drift",))
    )
    errors = [item.charge for item in failing if item.charge.kind in REMEDIES]
    lost = sum(len(charge.names) for charge in errors)  # one error for all targets that have it
    told = [item.charge for item in failing if item.charge.kind in KINDS]
    findings, cases = len({said_once(charge) for charge in told}), len({(one.scenario, one.case) for one in told})
    new = f"in {plural(cases, 'case')} {new}" if findings < len(told) else new
    parts = [item.short for item in verdict.missed[:3]]
    parts += [f"{plural(crashes, 'cell')} crashed or timed out"] if crashes else []
    parts += [f"{plural(lost, 'cell')} could not be played"] if lost else []
    parts += [f"{plural(expectations, 'expectation')} did not come true"] if expectations else []
    parts += [f"{plural(findings, 'finding')} {new}"] if findings else []
    parts += [f"{plural(drifts, 'difference')} without a finding {new}"] if drifts else []
    parts += [plural(expired, "expired waiver")] if expired else []
    words = {"known": "known", "waived": "waived", "unchecked": "not checked"}
    counts = [f"{len(verdict.of(standing))} {word}" for standing, word in words.items() if verdict.of(standing)]
    rest = f" ({', '.join(counts)})" if counts else ""
    return f"{listed(parts) or f'nothing {new}'}{rest}"


def said_once(charge: Charge) -> tuple[object, ...]:
    """The same of one finding in several cases, whatever its figures and targets: what the screen counts as one."""
    whom = charge.sides if charge.kind == "unexplained" else ()
    if len(charge.sides) > 1:
        return charge.code, charge.kind, charge.departs, whom
    names = "|".join(re.escape(name) for name in sorted(charge.names, key=len, reverse=True))
    one = rf"(?<![\w.])(?:{names})(?: [\d.]+\w*)?(?![\w.\[]*\w)"
    said = re.sub(rf"{one}(?:(?:, | and )(?:{one}|\d+ others))*", "*", charge.sentence)
    return charge.code, charge.kind, charge.departs, whom, charge.layer, ENDINGS.sub("", NUMBER.sub("#", said))[:GIST]


def listed(parts: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def missed(verdict: Verdict) -> Iterator[str]:
    """What was asked for and did not come."""
    for item in verdict.missed:
        yield f"- {prose(item.sentence)}" + (f" → {prose(item.remedy)}" if item.remedy else "")
    if verdict.missed:
        yield ""


def charged(title: str, items: list[Judged]) -> Iterator[str]:
    if items:
        yield f"### {prose(title)}"
        yield ""
        yield from table(items)


def table(items: list[Judged]) -> Iterator[str]:
    """A row each."""
    yield "| cause | scenario · case | what | explains | |"
    yield "| --- | --- | --- | ---: | --- |"
    for item in items:
        charge = item.charge
        explained = "" if charge.explained is None else share(charge.explained)
        cause = " ".join(filter(None, (charge.code, f"**{prose(charge.cause)}**", kinded(charge).strip())))
        yield row(
            cause, prose(place(charge.scenario, charge.case)), prose(charge.sentence), explained, prose(item.note)
        )
    yield ""


def folded(title: str, items: list[Judged]) -> Iterator[str]:
    """The same behind a click: nobody has to act on it."""
    if items:
        yield f"<details><summary>{prose(title)}: {len(items)}</summary>"
        yield ""
        yield from table(items)
        yield "</details>"
        yield ""


def waivers(verdict: Verdict) -> Iterator[str]:
    told = list(remarks(verdict))
    yield from (f"- {prose(text)}" for text in told)
    if told:
        yield ""


def remarks(verdict: Verdict) -> Iterator[str]:
    """What is to be said of waivers and baseline, a sentence each; the terminal says the same."""
    yield from overdue(verdict)
    for waiver in verdict.unneeded:
        yield f"{waiver.where}: nothing needs the waiver of {waiver.label} any more; remove it"
    if verdict.gone:
        first = verdict.gone[0]
        count = "1 entry" if len(verdict.gone) == 1 else f"{len(verdict.gone)} entries"
        yield (
            f"{count} of the baseline no longer found (first: {first.cause} in {place(first.scenario, first.case)}); "
            "write it anew with: bncheck baseline update"
        )


def overdue(verdict: Verdict) -> Iterator[str]:
    for waiver in verdict.expired:
        yield f"{waiver.where}: the waiver of {waiver.label} expired on {waiver.expires}: {waiver.reason}"


def matrix(results: Results) -> Iterator[str]:
    """Scenario × target, marks with words: colour and emoji say nothing that the words do not."""
    shown = make_matrix(results, probes=False)
    if not shown.rows:
        return
    yield "### Scenarios"
    yield ""
    yield row("scenario · case", *(heading(shown, target, prose) for target in shown.targets))
    yield row("---", *("---" for _ in shown.targets))
    for each in shown.rows:
        marks = [f"{stand.mark} {prose(one_line(stand.text, 120))}" for stand in each.stands.values()]
        yield row(prose(place(each.scenario.name, each.label)), *marks)
    yield ""


def unavailable(results: Results) -> Iterator[str]:
    missing = [target for target in results.targets if target.status != "ok"]
    for target in missing:
        remedy = f" → {prose(one_line(target.remedy, 300))}" if target.remedy else ""
        yield f"- {prose(target.label)} is unavailable: {prose(one_line(target.reason, 300))}{remedy}"
    if missing:
        yield ""


def ending(results: Results) -> Iterator[str]:
    yield "<details><summary>Environment</summary>"
    yield ""
    yield "| target | Python | NumPy | platform |"
    yield "| --- | --- | --- | --- |"
    for target in results.targets:
        facts = [str(target.environment.get(key, "")) for key in ("numpy", "platform")]
        yield row(prose(target.label), prose(target.python), *(prose(fact) for fact in facts))
    yield ""
    yield "</details>"
    yield ""
    yield f"`{one_line(results.command, 500).replace('`', chr(39))}` · bncheck {prose(results.version)}"


def place(scenario: str, case: str) -> str:
    return f"{scenario} · {case}" if case and case != "base" else scenario


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def prose(value: str) -> str:
    """Foreign text as plain text: no Markdown, no HTML, no line end."""
    return SPECIAL.sub(r"\\\1", one_line(clean(value), LONGEST_ROW))


def append(path: Path, run_folder: Path, tell: Callable[[str], None]) -> None:
    """Add summary.md to the file that GitHub shows, cut to what earlier steps left of its limit."""
    found = (run_folder / "summary.md").read_text(encoding="utf-8")
    taken = path.stat().st_size if path.exists() else 0
    if taken + len(found.encode()) > LIMIT:
        found = fit(found.split("\n"), max(LIMIT - taken, 0)) if LIMIT - taken > 400 else ""
        tell(f"the job summary is full ({taken} bytes before this one): {run_folder / 'summary.md'} has the rest")
    with path.open("a", encoding="utf-8") as handle:
        handle.write(found)
