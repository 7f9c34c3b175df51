"""The bug-report kit of one finding: issue text, picture, environment, figures, a script per framework, and a zip."""

from __future__ import annotations

import csv
import io
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import astuple, fields, replace
from pathlib import Path

from bncheck.errors import RunFolderError
from bncheck.evidence import Drift
from bncheck.report.gallery import Gallery
from bncheck.report.machine import environment_text
from bncheck.repro.details import details_text, drifts_of
from bncheck.repro.issue import file_name, issue_text
from bncheck.repro.scene import Scene, concerned, stride_of
from bncheck.repro.scripts import writer_of
from bncheck.repro.standalone.brief import brief_script
from bncheck.repro.standalone.frame import Script, write_script
from bncheck.repro.standalone.subject import CannotWriteError, Subject, make_subject
from bncheck.run_folder.results import Results, TargetResult, key_of
from bncheck.run_folder.whole import write_whole
from bncheck.worker.archive import write_npz

OURS = re.compile(
    r"(issue\.md|note\.md|details\.md|short_[\w.+=,\[\]-]+\.py|environment\.md|plot\.(png|svg)|drift\.csv|repro_[\w.+=,\[\]-]+\.(py|npz|onnx))"
)


def kit_name(scene: Scene) -> str:
    """A folder name of letters that need no quoting in a shell."""
    found = scene.finding
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"kit-{found.code}-{found.scenario}-{found.case}")[:180]


def write_kit(run: Path, results: Results, scene: Scene, out: Path | None = None) -> tuple[Path, Path]:
    """Write the folder and the .zip beside it; returns both. The same run gives the same bytes."""
    folder = out or run / kit_name(scene)
    files = kit_files(run, results, scene)
    clear(folder)
    for name, content in files.items():
        write_whole(folder / name, content)
    return folder, write_whole(folder.with_name(folder.name + ".zip"), zipped(folder.name, files))


def clear(folder: Path) -> None:
    """Make the folder, or empty it of an earlier kit; anything else in it is not touched and stops us."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [path.name for path in folder.iterdir() if not OURS.fullmatch(path.name.removesuffix(".part"))]
        if foreign:
            raise RunFolderError(
                f"{folder} holds {foreign[0]}, which is no part of a kit.", "Name another folder with --out."
            )
        for path in folder.iterdir():
            path.unlink()
    except OSError as error:
        raise RunFolderError(
            f"The kit {folder} cannot be written: {error.strerror}.", "Name another folder with --out."
        ) from error


def kit_files(run: Path, results: Results, scene: Scene) -> dict[str, bytes]:
    """File name → content, in the order a reader wants them."""
    subjects, scripts, reasons = write_scripts(scene)
    texts = {name: script.text for name, script in scripts.items()}
    briefs = {short_name(name): script.brief for name, script in scripts.items() if script.brief}
    named = file_name(scene.finding)
    files = {
        named: issue_text(results, scene, subjects, {**texts, **briefs}, reasons).encode(),
        "details.md": details_text(results, scene, subjects, texts, reasons).encode(),
    }
    described = next(each for each in results.scenarios if each.name == scene.finding.scenario)
    recorded = results.case_at[scene.finding.scenario, scene.finding.case]
    picture = Gallery(results, run, None, png=True).picture(described, recorded, scene.finding.layer)
    if picture is not None:
        from bncheck.report.svg import standalone

        files |= {"plot.png": picture.png, "plot.svg": standalone(picture.svg).encode()}
    else:
        for name in (named, "details.md"):
            files[name] = files[name].replace(b"![measured and expected curves](plot.png)\n\n", b"")
    files["environment.md"] = environment_text([item.target for item in scene.played]).encode()
    files["drift.csv"] = drift_csv(drifts_of(results, scene.finding)).encode()
    files |= {name: text.encode() for name, text in briefs.items()}
    for name, script in scripts.items():
        files[name] = script.text.encode()
        if script.beside:
            files[f"{name.removesuffix('.py')}.npz"] = packed(script)
        files |= {f"{name.removesuffix('.py')}.{end}": content for end, content in script.files.items()}
    return files


def write_scripts(scene: Scene) -> tuple[list[Subject], dict[str, Script], dict[str, str]]:
    """(subjects, file name → script, target → why it has none)."""
    subjects: list[Subject] = []
    scripts: dict[str, Script] = {}
    reasons: dict[str, str] = dict(scene.lost)
    targets = concerned(scene.finding, scene.played)
    for target in targets:
        alone = [each.backend for each in targets].count(target.backend) == 1
        stem = re.sub(r"[^\w.+=,\[\]-]", "-", f"repro_{target.backend if alone else target.slug}", flags=re.ASCII)
        try:
            subject = subject_of(scene, target)
            subjects.append(subject)
            writer = writer_of(target.backend)
            if writer is None:
                raise CannotWriteError(f"nobody has written scripts for {target.backend} yet")
            script = write_script(subject, writer, stem)
            scripts[f"{stem}.py"] = replace(script, brief=brief_script(subject, writer) or "")
        except CannotWriteError as error:
            reasons[target.label] = str(error)
    return subjects, scripts, reasons


def short_name(name: str) -> str:
    """``repro_torch.py`` → ``short_torch.py``."""
    return f"short_{name.removeprefix('repro_')}"


def subject_of(scene: Scene, target: TargetResult) -> Subject:
    """The script's subject for one target of the scene."""
    if target.name in scene.unsteady and scene.finding.cause != "order-dependence":
        raise CannotWriteError(
            "the case gives something else there when it is played again, so that a script need not show what the run "
            "did; take the kit of that finding (bncheck repro RUN order-dependence)"
        )
    own = next(item.trace for item in scene.played if item.target.name == target.name)
    sizes = [array.size for name, array in own.arrays.items() if name.startswith("output/")]
    shape = next((array.shape[1:] for name, array in scene.inputs.items() if name.startswith("x/")), ())
    stride = stride_of(scene, output_shape(scene, shape)) if sizes else 1
    return make_subject(
        scene.finding,
        scene.case,
        scene.inputs,
        scene.played,
        target.name,
        tolerance=scene.tolerance,
        stride=stride,
        specs=scene.specs,
        custom_source=scene.custom_source,
        model_file=scene.model_file,
        sample=scene.sample,
    )


def output_shape(scene: Scene, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the network's output, which is what was sampled; the input's where a layer's shape is not known."""
    from bncheck.scenario_files.shapes import ShapeError, with_channels

    try:
        return with_channels(scene.case.network.layers, shape)[1] or shape
    except ShapeError:
        return shape


def drift_csv(drifts: list[Drift]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([key_of(Drift, item.name) for item in fields(Drift)])
    writer.writerows(astuple(drift) for drift in drifts)
    return stream.getvalue()


def packed(script: Script) -> bytes:
    """The arrays beside a script, as an .npz of fixed bytes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "arrays.npz")  # noqa: PTH118 - the worker's writer takes a text
        write_npz(path, script.beside)
        return Path(path).read_bytes()


def zipped(folder: str, files: Mapping[str, bytes]) -> bytes:
    """The kit as an archive: fixed time stamps, relative names, the same bytes for the same content."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(f"{folder}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(entry, content)
    return stream.getvalue()
