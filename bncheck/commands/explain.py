"""bncheck explain: what a rule means, how it is told apart from its neighbours, what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from bncheck.commands.completion import codes

if TYPE_CHECKING:
    from bncheck.diagnosis.rules import Rule


@click.command("explain", short_help="Explain a rule.")
@click.argument("word", metavar="[CODE|CAUSE]", required=False, shell_complete=codes)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain_command(word: str | None, as_json: bool) -> None:
    """Explain a rule by its code (BN103) or cause (update-phase); without an argument, list all rules."""
    from bncheck.diagnosis.rules import explain, load_rules

    if word is None:
        rules = load_rules()
        click.echo(json.dumps([_record(rule) for rule in rules], indent=1) if as_json else _table(rules))
        return
    rule = explain(word)
    click.echo(json.dumps(_record(rule), indent=1) if as_json else _page(rule))


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
