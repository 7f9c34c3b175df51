"""``bncheck plot``: the picture of one finding, as a file."""

from __future__ import annotations

from pathlib import Path

import click

from bncheck.commands.completion import runs_and_codes
from bncheck.commands.options import run_and


@click.command(name="plot")
@click.argument("words", nargs=-1, required=True, metavar="[RUN] FINDING", shell_complete=runs_and_codes)
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), required=True, help="A .png or .svg file.")
def plot_command(words: tuple[str, ...], out: Path) -> None:
    """Draw the case of a finding: trajectories, drift, tolerance, onset of NaN.

    RUN is a run folder, the newest below reports/ where none is named; FINDING a code (BN103), a cause, either
    with #2 for the second one, or SCENARIO--CASE.

    \b
    bncheck plot BN103 -o update-phase.png
    bncheck plot latest all-ones--forward -o all-ones.svg
    """
    from bncheck.errors import RunFolderError, UsageError
    from bncheck.report.case_plot import draw_case
    from bncheck.report.svg import standalone
    from bncheck.repro.scene import choose_place
    from bncheck.run_folder.folder import find_run
    from bncheck.run_folder.results import read_results
    from bncheck.run_folder.whole import write_whole

    if out.suffix not in (".png", ".svg"):
        raise UsageError(f"{out} is neither a .png nor a .svg file.", "Name one: -o picture.png")
    run, finding = run_and(words, "FINDING")
    folder = find_run(run)
    results = read_results(folder)
    scenario, case, layer = choose_place(results, finding)
    picture = draw_case(results, folder, scenario, case, layer, png=out.suffix == ".png")
    if picture is None:
        raise RunFolderError(
            f"No target recorded running statistics in {scenario.name}--{case.name}.", "Choose another."
        )
    try:
        write_whole(out, picture.png if out.suffix == ".png" else standalone(picture.svg))
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}.", "Name another file with -o.") from error
    click.echo(f" wrote    {out}")
