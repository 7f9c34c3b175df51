"""bncheck explain: what a rule means, how it is told apart from its neighbours, what to do."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click

from bncheck.commands.completion import codes

if TYPE_CHECKING:
    from bncheck.diagnosis.rules import Rule

CODE = re.compile(r"bn\d+")
MOST_NAMED = 6  # rules that a sentence names


@click.command("explain", short_help="Explain a rule.")
@click.argument("word", metavar="[CODE|CAUSE]", required=False, shell_complete=codes)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_command(word: str | None, as_json: bool) -> None:
    """Explain a rule by its code (BN103) or cause (update-phase); without an argument, list all rules."""
    from bncheck.diagnosis.rules import load_rules

    if word is None:
        rules = load_rules()
        click.echo(json.dumps([_record(rule) for rule in rules], indent=1) if as_json else _table(rules))
        return
    rule = explain(word)
    click.echo(json.dumps(_record(rule), indent=1) if as_json else _page(rule))


def explain(word: str) -> Rule:
    """The rule with this code or cause, in any spelling of case and dashes; UsageError names those whose explanations
    have the word, or the nearest."""
    from bncheck.diagnosis.rules import load_rules
    from bncheck.errors import UsageError, nearest

    wanted = word.strip().lower().replace("_", "-").replace(" ", "-")
    known = {name.lower(): rule for rule in load_rules() for name in (rule.code, rule.cause)}
    if wanted in known:
        return known[wanted]
    if not wanted:
        raise UsageError("explain needs the code or the cause of a rule.", "`bncheck explain` alone lists all rules")
    counted = sorted(load_rules(), key=lambda rule: -mentions(rule, wanted))
    speaking = [rule for rule in counted if mentions(rule, wanted)]
    near = "" if CODE.fullmatch(wanted) or speaking else nearest(wanted, known)
    hint = f" Did you mean {known[near].code} {known[near].cause}?" if near else ""
    if speaking:
        hint = f" Rules that speak of it: {', '.join(f'{rule.code} {rule.cause}' for rule in speaking[:MOST_NAMED])}."
    raise UsageError(f"there is no rule {word[:60]!r}.{hint}", "`bncheck explain` without an argument lists all rules")


def mentions(rule: Rule, wanted: str) -> int:
    """How often a rule's title and explanation have the word, or the words, as such."""
    text = f"{rule.title} {rule.explanation}".lower()
    for sign in "_ ":
        text = text.replace(sign, "-")
    return len(re.findall(rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9])", text))


def _record(rule: Rule) -> dict[str, str]:
    return {
        "code": rule.code,
        "cause": rule.cause,
        "family": rule.family,
        "title": rule.title,
        "explanation": rule.explanation,
    }


def _page(rule: Rule) -> str:
    head = f"{rule.code} {rule.cause} ({rule.family})"
    return f"{click.style(head, bold=True)}\n{rule.title}\n\n{rule.explanation}"


def _table(rules: tuple[Rule, ...]) -> str:
    wide = max(len(rule.cause) for rule in rules)
    return "\n".join(f"{rule.code}  {rule.cause:<{wide}}  {rule.title}" for rule in rules)
