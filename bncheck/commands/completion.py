"""What a shell completes behind an argument: scenarios, targets, rules, runs, formats. Nothing is run for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem


def offered(words: dict[str, str], begun: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(word, help=told) for word, told in words.items() if word.startswith(begun)]


def scenarios(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Shipped scenarios by name, and TOML files by path."""
    from bncheck.scenario_files.shipped import find_scenarios

    names = {path.stem: "" for path in find_scenarios()}
    place = Path(begun).parent if "/" in begun else Path()
    here = sorted(place.glob("*.toml")) if place.is_dir() else []
    return offered(names | {str(path): "" for path in here if path.name != "pyproject.toml"}, begun)


def targets(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    from bncheck.environments.backend_file import find_backends

    found: dict[str, str] = {}
    for backend in find_backends(()).values():
        named = [f"[{variant}]" for variant in backend.variants if variant and variant != "*"]
        found |= {f"{backend.name}{variant}": backend.title for variant in ("", *named)}
    return offered(found, begun)


def codes(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Rules, by code and by cause."""
    from bncheck.diagnosis.rules import load_rules

    rules = load_rules()
    return offered({rule.code: rule.title for rule in rules} | {rule.cause: rule.title for rule in rules}, begun)


def runs(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Runs below reports/, the newest first, by name."""
    from bncheck.run_folder.folder import known_runs

    return offered(dict.fromkeys(("latest", *known_runs()), ""), begun)


def runs_and_codes(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The first of two words may be either; behind a run stands a finding."""
    given = context.params.get("words") or ()
    first = [] if given else runs(context, parameter, begun)
    return [*codes(context, parameter, begun), *first]


def formats(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    from bncheck.report import formats as known

    return offered(dict.fromkeys((*known(), "all"), ""), begun)
