"""The Jinja environment of all HTML pages: everything escaped, and templates compiled once per version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.bccache

from bncheck.environments.folder import cache_folder
from bncheck.report import plain_text
from bncheck.run_folder.results import Results

TEMPLATES = Path(__file__).parent / "templates"


def safe_link(text: str) -> str:
    """The address when it is a web page's, else nothing: a run folder may hold ``javascript:``."""
    return text if text.startswith(("https://", "http://")) else ""


# What every page may call on a value.
FILTERS: Mapping[str, Callable[..., Any]] = {
    "number": plain_text.number,
    "share": plain_text.share,
    "scalar": plain_text.scalar,
    "words": plain_text.words,
    "one_line": plain_text.one_line,
    "clean": plain_text.clean,
    "plural": plain_text.plural,
    "link": safe_link,
}


def environment(filters: Mapping[str, Callable[..., Any]] = FILTERS) -> jinja2.Environment:
    """The environment with these filters; the usual one is made once, and keeps its templates."""
    return usual() if filters is FILTERS else make(filters)


@cache
def usual() -> jinja2.Environment:
    return make(FILTERS)


def make(filters: Mapping[str, Callable[..., Any]]) -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        bytecode_cache=compiled_templates(),
    )
    made.filters |= filters
    return made


class CompiledTemplates(jinja2.FileSystemBytecodeCache):
    """Compiled templates, found again by the text they were made from. What cannot be kept is compiled again."""

    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        try:
            super().dump_bytecode(bucket)
        except OSError:
            pass  # a full disk or a read-only one: the next report takes as long as this one


def compiled_templates() -> CompiledTemplates | None:
    """In the cache folder: compiling takes 0.25 s, a fifth of all reports of a default run."""
    folder = cache_folder() / "templates"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return CompiledTemplates(str(folder))


def environment_table(results: Results) -> dict[str, Any]:
    """Keys as rows, targets as columns: differences between environments meet the eye."""
    given = {
        target.name: {"version": target.version, "device": target.device, "python": target.python, **target.environment}
        for target in results.targets
    }
    keys = list(dict.fromkeys(key for found in given.values() for key in found))
    return {"keys": keys, "given": given}
