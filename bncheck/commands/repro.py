"""``bncheck repro``: the bug-report kit of one finding."""

from __future__ import annotations

from pathlib import Path

import click

from bncheck.commands.completion import runs_and_codes
from bncheck.commands.options import run_and

KINDS = ("short", "repro")  # of scripts: the one that is read first, and the elaborate one
NOTHING = {
    "convention": "Neither side contradicts its documentation: there is nothing to file. note.md says what to know.",
    "rounding": "This is rounding: there is nothing to file. note.md says what to know.",
}


@click.command(name="repro")
@click.argument("words", nargs=-1, required=True, metavar="[RUN] FINDING", shell_complete=runs_and_codes)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write. Default: kit-… in the run folder.")
@click.option(
    "--run/--no-run",
    "play",
    default=True,
    help="Look for a smaller case that shows the finding, by playing some on the targets that are here. Default.",
)
@click.option("--python", "pythons", multiple=True, metavar="TARGET=PATH", help="Play with this interpreter.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def repro_command(
    words: tuple[str, ...], out: Path | None, *, play: bool, pythons: tuple[str, ...], quiet: bool
) -> None:
    """Write everything a bug report needs: issue text, picture, environment, a script per framework, a zip.

    RUN is a run folder, the newest below reports/ where none is named; FINDING a code (BN103), a cause (update-
    phase), either with #2 for the second one, or SCENARIO--CASE.

    \b
    bncheck repro BN103
    bncheck repro latest cancellation --out my-report
    bncheck repro reports/latest nan-sample--bad-step --no-run
    """
    from bncheck.commands.progress import open_progress
    from bncheck.repro.kit import write_kit
    from bncheck.repro.scene import choose_finding, read_scene
    from bncheck.run_folder.folder import find_run
    from bncheck.run_folder.results import read_results

    run, finding = run_and(words, "FINDING")
    folder = find_run(run)
    results = read_results(folder)
    scene = read_scene(folder, results, choose_finding(results, finding))
    if play:
        from bncheck.repro.minimise import minimise

        with open_progress(quiet=quiet) as progress:
            scene = minimise(results, scene, pythons, progress)
    kit, archive = write_kit(folder, results, scene, out)
    if quiet:
        return
    if not scene.finding.reportable:
        click.echo(f" {NOTHING[scene.finding.kind]}")
    if scene.note:
        click.echo(f" {scene.note}")
    for path in sorted(kit.iterdir()):
        click.echo(f" wrote    {path}")
    click.echo(f" zip      {archive}")
    # The side that departs first: on it the problem is to be seen.
    departs = next((target for target in results.targets if target.name == scene.finding.departs), None)
    first = [f"{kind}_{name}.py" for name in (departs.slug, departs.backend) for kind in KINDS] if departs else []
    found = [path.name for kind in KINDS for path in sorted(kit.glob(f"{kind}_*.py"))]
    scripts = sorted(found, key=lambda name: name not in first)
    if scripts:
        click.echo(f" try it   uv run {kit / scripts[0]}")
