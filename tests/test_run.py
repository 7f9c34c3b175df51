"""Whole runs on real frameworks: the figures of the first report, and what a run survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from at_the_prompt import bncheck, command, here
from conftest import printed
from left_by_cells import arrays_of, entries_of, worker_processes

from bncheck.evidence import Drift
from bncheck.finding import Finding
from bncheck.playing.cases_file import read_job
from bncheck.run_folder.results import Results, read_results

FOLDERS = Path(__file__).parent


def drift(results: Results, scenario: str, case: str, a: str, b: str, quantity: str) -> Drift:
    found = results.drifts_between(scenario, case, a, b)
    return next(each for each in found if each.quantity == quantity)


def causes(results: Results, scenario: str, case: str, a: str, b: str) -> dict[str, Finding]:
    """Findings between two targets in one case, by cause."""
    found = {}
    for finding in results.findings_at.get((scenario, case), ()):
        if len(finding.sides) == 2:
            one, two = finding.sides
            if (a in one and b in two) or (b in one and a in two):
                found[finding.cause] = finding
    return found


def final(folder: Path, target: str, case: str, quantity: str) -> np.ndarray:
    return arrays_of(folder / "cells" / target / case)[f"bn/{quantity}"][-1].astype(float)


# --------------------------------------------------------------------------------------------- the figures


def test_the_default_run_ends_well(default_run: Path) -> None:
    said = printed(default_run)
    assert said["code"] == 0, said["stderr"]
    assert "0.90099 ± 0.20569" in str(said["stdout"])
    assert "update-phase" in str(said["stdout"])
    results = read_results(default_run)
    assert {target.name: target.status for target in results.targets} == dict.fromkeys(
        ("reference", "torch", "mxnet"), "ok"
    )
    assert {cell.outcome for cell in results.cells} <= {"ok", "raised"}


@pytest.mark.parametrize("other", ["reference", "torch"])
def test_all_ones_forward_only_is_the_first_report(default_run: Path, other: str) -> None:
    results = read_results(default_run)
    for quantity in ("running_mean", "running_var"):
        found = drift(results, "all-ones", "forward", "mxnet", other, quantity)
        assert found.points == 101
        assert f"{found.mean_abs:.5f} ± {found.std_abs:.5f}" == "0.90099 ± 0.20569"
        assert found.first_event == 0
    for quantity in ("gamma", "beta"):
        assert drift(results, "all-ones", "forward", "mxnet", other, quantity).max_abs == 0


def test_all_ones_with_a_backward_agrees(default_run: Path) -> None:
    results = read_results(default_run)
    for quantity in ("running_mean", "running_var"):
        assert drift(results, "all-ones", "forward-backward", "mxnet", "reference", quantity).max_abs <= 1.5e-7
        assert drift(results, "all-ones", "forward-backward", "mxnet", "torch", quantity).relation == "agrees"


def test_torch_against_the_reference_on_all_ones(default_run: Path) -> None:
    results = read_results(default_run)
    for case in ("forward", "forward-backward"):
        for quantity in ("running_mean", "running_var"):
            assert drift(results, "all-ones", case, "torch", "reference", quantity).max_abs <= 2e-7


def test_all_ones_is_named_update_phase_and_never_swapped(default_run: Path) -> None:
    found = causes(read_results(default_run), "all-ones", "forward", "mxnet", "torch")
    assert set(found) == {"update-phase"}
    finding = found["update-phase"]
    assert finding.explained is not None
    assert finding.explained > 0.9999
    assert finding.title.startswith("mxnet")
    assert {"variance_divisor", "statistic"} <= set(finding.not_identifiable)
    said = str(printed(default_run)["stdout"])
    assert "swap" not in said


def test_all_zeros_is_the_second_report(default_run: Path) -> None:
    assert final(default_run, "mxnet", "all-zeros--base", "running_var") == pytest.approx(1.0)
    assert final(default_run, "torch", "all-zeros--base", "running_var") == pytest.approx(0.9**100, rel=1e-5)
    assert f"{0.9**100:.3e}" == "2.656e-05"


def test_one_value_per_channel_is_a_difference_not_an_error(default_run: Path) -> None:
    results = read_results(default_run)
    cell = results.cell_at["one-value-per-channel", "base", "torch"]
    assert (cell.outcome, cell.error_type) == ("raised", "ValueError")
    assert final(default_run, "torch", "one-value-per-channel--base", "running_var") == pytest.approx(1.0)
    assert final(default_run, "mxnet", "one-value-per-channel--base", "running_var") == pytest.approx(0.9)
    assert "single-value" in causes(results, "one-value-per-channel", "base", "mxnet", "torch")


def test_every_expectation_of_the_default_scenarios_is_met(default_run: Path) -> None:
    results = read_results(default_run)
    told = [(scenario.name, each) for scenario in results.scenarios for each in scenario.expectations]
    unmet = [f"{name}: {each}" for name, each in told if each.met is False]
    assert not unmet, "\n".join(unmet)
    assert sum(each.met is True for _, each in told) >= 10


def test_no_finding_above_convention_where_torch_and_the_reference_agree(default_run: Path) -> None:
    results = read_results(default_run)
    for scenario in results.scenarios:
        for case in scenario.cases:
            found = causes(results, scenario.name, case.name, "torch", "reference").values()
            assert {finding.kind for finding in found} <= {"convention", "rounding"}, (scenario.name, case.name)


@pytest.mark.network
def test_three_versions_of_mxnet_move_in_backward(version_run: Path) -> None:
    results = read_results(version_run)
    status = {target.name: target.reason for target in results.targets if target.status != "ok"}
    assert not status
    for version in ("mxnet==1.9.1", "mxnet==1.7.0.post2", "mxnet==1.6.0"):
        found = drift(results, "all-ones", "forward", version, "reference", "running_mean")
        assert f"{found.mean_abs:.5f} ± {found.std_abs:.5f}" == "0.90099 ± 0.20569"
        assert set(causes(results, "all-ones", "forward", version, "torch")) == {"update-phase"}
        on_probe = causes(results, "probe", "2-d--eps-1e-05", version, "torch")
        assert set(on_probe) == {"update-phase", "variance-divisor"}
        assert all(0 < (finding.explained or 0) <= 1 for finding in on_probe.values())


def test_the_simulated_cudnn_poisons_the_next_eval(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = here(
        "run", "one-value-per-channel", "-t", "reference[cudnn]", "-t", "reference", "--out", str(out), "--no-report"
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (out / "cells").glob("reference-cudnn*")
    arrays = arrays_of(folder / "one-value-per-channel--base")
    ops = [event["op"] for event in read_job(out, "one-value-per-channel--base")["events"]]
    train, evaluation = ops.index("train_forward"), ops.index("eval_forward")
    assert np.isfinite(arrays[f"output/{train}"]).all()
    assert np.isnan(arrays["bn/running_var"][-1]).all()
    assert np.isnan(arrays[f"output/{evaluation}"]).all()
    results = read_results(out)
    (target,) = [each for each in results.targets if each.variant == "cudnn"]
    assert target.simulated
    assert "defect" not in {finding.kind for finding in results.findings}
    assert "simulated" in done.stdout


# --------------------------------------------------------------------------------------- what a run survives


def test_a_gpu_that_is_not_there_is_unavailable_with_the_reason(tmp_path: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("a GPU is here")
    out = tmp_path / "run"
    done = here("run", "all-ones", "-t", "reference", "-t", "torch@cuda", "--out", str(out))
    assert done.returncode == 3
    assert "no NVIDIA GPU" in done.stderr
    (target,) = [each for each in read_results(out).targets if each.name == "torch@cuda"]
    assert target.status == "unavailable"
    assert target.remedy
    assert "torch@cuda" in (out / "index.html").read_text()


def test_a_crashing_backend_costs_one_cell_and_exit_code_3(tmp_path: Path) -> None:
    scenario = tmp_path / "faults.toml"
    scenario.write_text(
        'title = "faults"\nwhy = "a cell that dies"\n[network]\nlayers = [{ name = "fine", type = "batch_norm" }]\n'
        '[input]\nshape = [3, 2]\n[program]\nevents = ["train_forward"]\n'
    )
    text = scenario.read_text().replace('"fine"', '"segfault"').replace('"faults"', '"dies"')
    (tmp_path / "dies.toml").write_text(text)
    out = tmp_path / "run"
    done = here(
        "run", str(scenario), str(tmp_path / "dies.toml"), "-t", "faulty_backend", "-t", "reference", "--no-probe",
        "--backend-file", str(FOLDERS / "faulty_backend.py"), "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    results = read_results(out)
    outcome = {(cell.scenario, cell.target): cell.outcome for cell in results.cells}
    assert outcome["dies", "faulty_backend"] == "crashed"
    assert outcome["faults", "faulty_backend"] == "ok"
    assert [finding.cause for finding in results.findings if finding.scenario == "dies"] == ["crash"]


NAPPING = ("-t", "faulty_backend", "--no-reference", "--backend-file", str(FOLDERS / "faulty_backend.py"))


def slow_scenario(folder: Path) -> Path:
    """Twelve cells of half a second each: enough time to be interrupted in the middle, on a busy machine too."""
    path = folder / "slow.toml"
    path.write_text(
        'title = "slow"\nwhy = "to be interrupted"\n[network]\nlayers = [{ name = "nap", type = "batch_norm" }]\n'
        '[input]\nshape = [3, 3]\n[program]\nevents = ["train_forward"]\n'
        f'[matrix]\n"input.seed" = {list(range(12))}\n'
    )
    return path


# A shell starts what it runs in the background with interrupts ignored, and with it all that a test suite starts.
INTERRUPTIBLE = """import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)"""


def start_and_wait_for_a_cell(folder: Path, out: Path) -> subprocess.Popen[str]:
    words = ("run", str(slow_scenario(folder)), *NAPPING, "--no-probe", "--out", str(out))
    process = subprocess.Popen(
        command(*words, first=INTERRUPTIBLE), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not finished(out):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.05)
    return process


def finished(out: Path) -> dict[str, int]:
    """Cell → where its result stands in the tar that workers append to."""
    entries = entries_of(out / "cells" / "faulty_backend" / "cells.tar")
    return {name[: -len("/result.json")]: at for name, at in entries.items() if name.endswith("result.json")}


def test_an_interrupt_leaves_a_readable_run_and_exit_code_130(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start_and_wait_for_a_cell(tmp_path, out)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    results = read_results(out)
    assert 0 < len(results.cells) < 12
    assert len(results.cells) == len(finished(out))


def test_a_killed_run_is_resumed_without_playing_a_cell_twice(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start_and_wait_for_a_cell(tmp_path, out)
    process.kill()
    process.communicate()
    while worker_processes(out):  # the worker dies with its host
        time.sleep(0.05)
    before = finished(out)
    done = bncheck("run", "--resume", str(out), *NAPPING[3:])
    assert done.returncode == 0, done.stderr
    after = finished(out)
    assert len(after) == 12
    assert {name: after[name] for name in before} == before
    assert len(read_results(out).cells) == 12


def test_a_full_disk_is_a_sentence_and_keeps_what_is_finished(tmp_path: Path) -> None:
    """A limit on file sizes is the portable way to make writing fail in the middle: EFBIG instead of ENOSPC."""
    full = (
        "import resource, signal, sys\n"
        "sys.dont_write_bytecode = True\n"  # Python renames a compiled file of which a part alone could be written
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))"
    )
    done = bncheck("run", "all-ones", "-t", "reference", "--out", str(tmp_path / "run"), first=full)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "the system refused" in done.stderr
    assert not list((tmp_path / "run").glob("run.json"))


@pytest.mark.skipif(
    os.geteuid() != 0 and sys.platform != "linux", reason="needs a read-only folder that holds for root"
)
def test_a_read_only_folder_is_a_sentence(tmp_path: Path) -> None:
    done = here("run", "all-ones", "-t", "reference", "--out", "/proc/bncheck-run")
    assert done.returncode == 2
    assert "cannot be made" in done.stderr
    assert "Traceback" not in done.stderr


def test_records_have_a_line_for_every_finished_cell(default_run: Path) -> None:
    lines = [json.loads(line) for line in (default_run / "records.jsonl").read_text().splitlines()]
    assert {(line["target"], line["cell"]): line["outcome"] for line in lines} == {
        (cell.target, f"{cell.scenario}--{cell.case}"): cell.outcome for cell in read_results(default_run).cells
    }


def test_json_is_run_json_and_nothing_else(tmp_path: Path) -> None:
    done = bncheck(
        "run",
        "all-ones",
        "-t",
        "reference",
        "--no-reference",
        "--json",
        "--no-probe",
        "--no-report",
        "--out",
        str(tmp_path / "run"),
    )
    assert json.loads(done.stdout)["format"] == 1
    assert done.stderr == ""


def test_quiet_says_nothing(tmp_path: Path) -> None:
    done = bncheck(
        "run",
        "all-ones",
        "-t",
        "reference",
        "--no-reference",
        "-q",
        "--no-probe",
        "--no-report",
        "--out",
        str(tmp_path / "run"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_fail_on_decides_the_exit_code(tmp_path: Path) -> None:
    codes = {}
    for level in ("never", "defect", "convention"):
        done = here(
            "run", "all-ones", "-t", "reference", "-t", "reference[mxnet]", "--no-report", "-q",
            "--fail-on", level, "--out", str(tmp_path / level),
        )  # fmt: skip
        codes[level] = done.returncode
    assert codes == {"never": 0, "defect": 0, "convention": 1}


def test_latest_points_at_the_newest_run_and_report_renders_it_again(tmp_path: Path) -> None:
    here("run", "all-ones", "-t", "reference", "--no-probe", "--no-report", "-q", cwd=tmp_path)
    latest = tmp_path / "reports" / "latest"
    assert (latest / "run.json").exists()
    done = here("report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (latest / "index.html").exists()


def test_resuming_does_not_run_code_of_a_run_folder_unasked(tmp_path: Path) -> None:
    """A downloaded run folder may hold a layer file; what would it do, had it been run?"""
    (tmp_path / "own.py").write_text("raise SystemExit('executed')\n")
    scenario = tmp_path / "own.toml"
    scenario.write_text(
        'title = "own"\nwhy = "code in a run folder"\n[network]\ncustom = "own.py:Layer"\n'
        'layers = [{ name = "bn", type = "batch_norm" }]\n[input]\nshape = [4, 3]\n'
        '[program]\nevents = ["eval_forward"]\n'
    )
    out = tmp_path / "run"
    here("run", str(scenario), "-t", "reference", "--no-probe", "--no-report", "-q", "--out", str(out))
    done = here("run", "--resume", str(out))
    assert done.returncode == 2
    assert "--allow-code" in done.stderr
    assert str(out / "scenarios" / "own.py") in done.stderr
