"""``cases.jsonl`` of a run: a line of JSON per case, which the workers of all targets play it from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bncheck.bounded import clear, open_within, own_file, own_folder, read_within
from bncheck.errors import RunFolderError, ScenarioError
from bncheck.run_folder.folder import check_slug
from bncheck.run_folder.whole import write_whole
from bncheck.scenario import OP_NAMES, Case, describe_ops, op_of
from bncheck.scenario_files.inputs import content_key, make_inputs
from bncheck.scenario_files.shapes import layer_ranks
from bncheck.worker.archive import digest, pack_npz

NAME = "cases.jsonl"
KEY = re.compile(r"[0-9a-f]{16}\.npz")
SAMPLED_IN_ALL = 65536  # elements of all outputs of a cell together
LONGEST_LINE = 64 * 1024**2


def describe_case(case: Case, inputs: str, archive: str = "") -> dict[str, Any]:
    """One line of the file, as the worker's protocol says; ``archive`` is the digest of its inputs."""
    network = asdict(case.network)
    for layer, rank in zip(network["layers"], layer_ranks(case), strict=True):
        layer["rank"] = rank
    forwards = sum(op_of(event.op).forward for event in case.events)
    # The user's layers in a whole model are played by themselves besides, through events of their own.
    ops = OP_NAMES if case.network.model else [event.op for event in case.events]
    return {
        "cell": check_slug(case.id),
        "protocol": 1,
        "inputs": inputs,
        "digest": archive,
        "dtype": case.dtype,
        "network": network,
        "events": [asdict(event) for event in case.events],
        "ops": describe_ops(ops),
        "views": {name: spec.view for name, spec in case.inputs.items() if spec.view != "contiguous"},
        "sample": max(64, min(4096, SAMPLED_IN_ALL // max(forwards, 1))),
    }


def write_cases(run: Path, cases: Sequence[Case]) -> dict[str, str]:
    """Write inputs once per content and a line per case; returns case id → content key. One case at a time."""
    own_folder(run / "inputs")
    keys: dict[str, str] = {}
    kept: dict[str, str] = {}  # content key → digest of the archive
    write_whole(own_file(run / NAME), (line_of(case, run / "inputs", keys, kept) for case in cases))
    return keys


def line_of(case: Case, inputs: Path, keys: dict[str, str], kept: dict[str, str]) -> str:
    """The case's line; its inputs are written, its content key is noted in ``keys``, and in ``kept``."""
    if case.id in keys:
        raise ScenarioError(f"Two cases are called {case.id}.", "Give one of the scenario files another name.")
    arrays = make_inputs(case)
    key = content_key(case, arrays)
    keys[case.id] = key
    if key not in kept:
        content = pack_npz(arrays)
        kept[key] = digest(content)
        keep(inputs / f"{key}.npz", content)
    return json.dumps(describe_case(case, f"{key}.npz", kept[key])) + "\n"


def keep(path: Path, content: bytes) -> None:
    """Write an archive of inputs, unless it is there already, byte by byte: cells that are played from a damaged one
    would differ from those that were played before."""
    try:
        if read_within(path.parent, path.name, most=len(content)) == content:
            return
    except OSError:
        clear(path)  # there is none, or something else is in its place
    write_whole(path, content)


def read_lines(run: Path) -> Iterator[tuple[str, bytes]]:
    """(case, its line) of a run's file. RunFolderError for one that is missing, no file, or of another shape."""
    path = run / NAME
    try:
        with open_within(path.parent, path.name) as lines:
            while line := lines.readline(LONGEST_LINE):
                words = line.split(b'"', 4)
                if words[:3] != [b"{", b"cell", b": "] or len(words) < 5:
                    raise RunFolderError(
                        f"{path} has a wrong shape.", "The run folder was edited or damaged; run it again."
                    )
                yield words[3].decode("utf-8", "replace"), line
    except FileNotFoundError:
        raise RunFolderError(f"{path} is missing.", "The run folder is incomplete.") from None
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error}.", "The run folder was edited or damaged.") from error


def read_job(run: Path, case: str) -> dict[str, Any]:
    """What workers played a case from; RunFolderError when that is not there or makes no sense."""
    line = next((line for name, line in read_lines(run) if name == case), b"null")
    try:
        job = json.loads(line)
    except (ValueError, RecursionError):
        job = None
    if not isinstance(job, dict) or not KEY.fullmatch(str(job.get("inputs", ""))):
        raise RunFolderError(
            f"{run / NAME} says nothing sound of {case}.", "The run folder was edited or damaged; run it again."
        )
    return job


def join_cases(run: Path, sources: Sequence[tuple[Path, Mapping[str, str]]]) -> None:
    """The lines of several runs in one new file, each case under its new name (run folder, old name → new name)."""
    written: set[str] = set()
    with (run / NAME).open("wb") as lines:
        for folder, names in sources:
            for old, line in read_lines(folder):
                new = names.get(old, "")
                if new and new not in written:
                    lines.write(b'{"cell": "' + check_slug(new).encode() + b'"' + line.split(b'"', 4)[4])
                    written.add(new)
