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
SPOILING = ("swaps", "removes", "moves", "forges", "flips", "truncates", "appends", "inputs", "pipes")
VICTIMS = {kind: f"reference[batch_weight=0.{place + 1}]" for place, kind in enumerate(SPOILING)}
VICTIMS["links"] = "reference[batch_weight=0.05]"


def play(out: Path, kinds: Sequence[str], **variables: str) -> Results:
    words = [word for kind in kinds for word in ("-t", VICTIMS[kind], "-t", f"evil_backend[spoils {kind}]")]
    named = ("--resume", str(out)) if out.exists() else ("events", *words, "--no-probe", "--out", str(out))
    done = bncheck("run", *named, "--backend-file", str(EVIL), "--no-report", "-q", **variables)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return read_results(out)


def slugs_of(kinds: Sequence[str]) -> str:
    return json.dumps({kind: parse_targets([VICTIMS[kind]], find_backends())[0].slug for kind in kinds})


def spoil(out: Path, kinds: Sequence[str]) -> None:
    """Only the victims lose something, and nothing is said of them but that it is damaged; then it is mended."""
    elsewhere = out.with_name("elsewhere")
    elsewhere.mkdir()
    results = play(out, kinds, EVIL_VICTIMS=slugs_of(kinds), EVIL_ELSEWHERE=str(elsewhere))
    assert list(elsewhere.iterdir()) == []
    spoilt = [cell for cell in results.cells if cell.outcome != "ok"]
    assert {cell.error_type for cell in spoilt} <= set(DAMAGED), spoilt
    assert {cell.target for cell in spoilt} <= set(VICTIMS.values())
    assert {cell.target for cell in results.cells} >= {VICTIMS[kind] for kind in kinds}
    assert spoilt, "all of them came too early, and were played over"
    assert "crash" not in {finding.cause for finding in results.findings}
    assert {cell.outcome for cell in play(out, kinds).cells} == {"ok"}


def test_what_is_spoilt_is_damaged_and_played_again(tmp_path: Path) -> None:
    spoil(tmp_path / "run", SPOILING[:3])


def test_links_in_the_place_of_cells_end_no_run(tmp_path: Path) -> None:
    """They lead out of the run folder, and come while the host measures and looks at what the other has played."""
    results = play(tmp_path / "run", ["links"], EVIL_VICTIMS=slugs_of(["links"]))
    assert [cell.outcome for cell in results.cells if cell.target == VICTIMS["links"]] == ["ok"] * 4


@pytest.mark.slow
def test_every_way_to_spoil_ends_in_what_an_undisturbed_run_says(tmp_path: Path) -> None:
    play(tmp_path / "calm", SPOILING)
    spoil(tmp_path / "run", SPOILING)
    assert said(tmp_path / "run") == said(tmp_path / "calm")
