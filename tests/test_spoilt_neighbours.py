"""A backend that writes into other targets' files costs those cells, never a false result; ``--resume`` plays them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from at_the_prompt import bncheck
from test_damaged_cells import said

from bncheck.environments.backend_file import find_backends
from bncheck.environments.targets import parse_targets
from bncheck.evidence import DAMAGED
from bncheck.run_folder.results import Results, read_results

EVIL = Path(__file__).parent / "evil_backend.py"
SPOILING = ("swaps", "removes", "forges", "flips", "truncates", "appends", "inputs", "pipes")
VICTIMS = {kind: f"reference[batch_weight=0.{place + 1}]" for place, kind in enumerate(SPOILING)}


def play(out: Path, kinds: Sequence[str], **variables: str) -> Results:
    words = [word for kind in kinds for word in ("-t", VICTIMS[kind], "-t", f"evil_backend[spoils {kind}]")]
    named = ("--resume", str(out)) if out.exists() else ("events", *words, "--no-probe", "--out", str(out))
    done = bncheck("run", *named, "--backend-file", str(EVIL), "--no-report", "-q", **variables)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return read_results(out)


def spoil(out: Path, kinds: Sequence[str]) -> None:
    """Only the victims lose something, and nothing is said of them but that it is damaged; then it is mended."""
    slugs = {kind: parse_targets([VICTIMS[kind]], find_backends())[0].slug for kind in kinds}
    results = play(out, kinds, EVIL_VICTIMS=json.dumps(slugs))
    spoilt = [cell for cell in results.cells if cell.outcome != "ok"]
    assert {cell.error_type for cell in spoilt} <= set(DAMAGED), spoilt
    assert {cell.target for cell in spoilt} <= set(VICTIMS.values())
    assert spoilt, "all of them came too early, and were played over"
    assert "crash" not in {finding.cause for finding in results.findings}
    assert {cell.outcome for cell in play(out, kinds).cells} == {"ok"}


def test_what_is_spoilt_is_damaged_and_played_again(tmp_path: Path) -> None:
    spoil(tmp_path / "run", SPOILING[:2])


@pytest.mark.slow
def test_every_way_to_spoil_ends_in_what_an_undisturbed_run_says(tmp_path: Path) -> None:
    play(tmp_path / "calm", SPOILING)
    spoil(tmp_path / "run", SPOILING)
    assert said(tmp_path / "run") == said(tmp_path / "calm")
