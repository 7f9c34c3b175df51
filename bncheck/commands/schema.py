"""``bncheck schema``: the JSON Schema of scenario files, for editors."""

from __future__ import annotations

import click


@click.command(name="schema")
def schema_command() -> None:
    """Print the JSON Schema of scenario files: editors then complete and check them.

    \b
    bncheck schema > bncheck.schema.json
    #:schema ./bncheck.schema.json      the first line of a scenario, as `bncheck new` writes it
    """
    import json

    from bncheck.scenario_files.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=1, ensure_ascii=False))
