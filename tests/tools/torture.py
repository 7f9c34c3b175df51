"""Kill runs of random programs at random moments, go on with them, and hold the end against the undisturbed run.

    python tests/tools/torture.py                 200 kills, about a quarter of an hour
    python tests/tools/torture.py --kills 1000 --seed 7
    python tests/tools/torture.py -t torch -t mxnet     programs on these targets instead of the ones that need nothing

After every kill (SIGKILL, SIGTERM, SIGHUP or SIGINT, from the start of Python on) no process may be left two seconds
later, what was finished must still be there byte by byte, and a run that was resumed to its end must say what the
undisturbed one says.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # this checkout
sys.path.insert(0, str(HERE.parent))

from at_the_prompt import command, environment  # noqa: E402
from left_by_cells import entries_of, processes  # noqa: E402

NAP = HERE.parent / "nap_backend.py"
OWN = ("nap_backend", "nap_backend[second]", "reference")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
ORPHAN_SECONDS = 2.0
HANG_SECONDS = 120.0
EVENTS = ("train_forward", "eval_forward", "no_grad_forward", "backward")
PASSING = ("seconds", "created", "command", "import_seconds")  # what differs from run to run


@dataclass
class Tally:
    kills: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    faults: list[str] = field(default_factory=list)


def program(folder: Path, rng: random.Random) -> Path:
    """A scenario of a few cases whose events are drawn; each has a forward that a backward can go back through."""
    events = ["train_forward", *(rng.choice(EVENTS) for _ in range(rng.randrange(1, 5)))]
    path = folder / f"program{rng.randrange(10**6)}.toml"
    path.write_text(
        'title = "torture"\nwhy = "to be killed"\n[network]\nlayers = [{ name = "bn", type = "batch_norm" }]\n'
        f"[input]\nshape = [{rng.randrange(2, 7)}, 3]\n[program]\nevents = {json.dumps(events)}\n"
        f'repeat = {rng.randrange(1, 4)}\n[matrix]\n"input.seed" = {list(range(rng.randrange(3, 12)))}\n'
    )
    return path


@dataclass(frozen=True)
class Plan:
    """One program and how it is played; ``mark`` is how long its workers' children sleep, which tells them apart."""

    scenario: Path
    targets: Sequence[str]
    options: Sequence[str]
    mark: str


def start(plan: Plan, out: Path, resume: bool) -> subprocess.Popen[bytes]:
    wanted = [word for name in plan.targets for word in ("-t", name)]
    named = ["--resume", str(out)] if resume else [str(plan.scenario), *wanted, "--no-probe", "--out", str(out)]
    words = command("run", *named, "--backend-file", str(NAP), "--no-report", "-q", *plan.options)
    quiet, known = subprocess.DEVNULL, environment(NAP_SLEEP=plan.mark)
    return subprocess.Popen(words, stdout=quiet, stderr=subprocess.PIPE, env=known)


def said(out: Path) -> dict[str, Any]:
    """What a finished run says, without what differs from run to run."""
    tables = {path.name: path.read_text() for path in sorted(out.glob("*.csv"))}
    return {"run.json": lasting(json.loads((out / "run.json").read_text())), **tables}


def lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in PASSING}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def finished(out: Path) -> dict[str, bytes]:
    """Every whole entry of every target's tar."""
    found = {}
    for tar in sorted(out.glob("cells/*/cells.tar")):
        content, places = tar.read_bytes(), entries_of(tar)
        ends = [*list(places.values())[1:], len(content)]
        for (name, start), end in zip(places.items(), ends, strict=True):
            found[f"{tar.parent.name}/{name}"] = content[start : end - 512] if end != len(content) else content[start:]
    return found


def left(out: Path, plan: Plan) -> list[int]:
    """Processes that belong to this run two seconds after its host has ended."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        found = [*processes(f"{out}/"), *processes(f"sleep\0{plan.mark}")]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def line_of(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[-200:]
    except OSError:
        return "ended just now"


def moment_of(out: Path) -> str:
    """How far a run had come when it was killed."""
    if not (out / "plan.json").exists():
        return "before its plan"
    if not any(out.glob("cells/*/environment.json")):
        return "while its workers started"
    return "while it judged" if (out / "run.json.part").exists() else "while it played"


def wait_to_kill(host: subprocess.Popen[bytes], out: Path, longest: float, rng: random.Random) -> None:
    """A random moment, one in three as soon as workers are there."""
    deadline = time.monotonic() + longest * rng.random() * 1.1
    early = rng.random() < 0.33
    while host.poll() is None and time.monotonic() < deadline:
        if early and processes(f"{out}/cells"):
            return
        time.sleep(0.002)


def disturb(plan: Plan, out: Path, longest: float, kills: int, rng: random.Random, tally: Tally) -> None:
    """Start the run, kill it so many times while it is resumed, then let it come to its end."""
    for _ in range(kills):
        resume = (out / "plan.json").exists()
        if not resume:
            shutil.rmtree(out, ignore_errors=True)
        before = finished(out)
        host = start(plan, out, resume)
        wait_to_kill(host, out, longest, rng)
        if host.poll() is None:
            sign = rng.choice(SIGNALS)
            tally.kills[sign.name] += 1
            tally.moments[moment_of(out)] += 1
            host.send_signal(sign)
        look(plan, out, before, end_of(host, plan, tally), tally)
    before = finished(out)
    resume = (out / "plan.json").exists()
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
    host = start(plan, out, resume)
    told = end_of(host, plan, tally)
    look(plan, out, before, told, tally)
    if host.returncode not in (0, 1):
        tally.faults.append(f"{plan.scenario.name}: exit code {host.returncode}: {told.decode()[-300:]}")


def end_of(host: subprocess.Popen[bytes], plan: Plan, tally: Tally) -> bytes:
    """What it said at its end; one that hangs is a fault."""
    try:
        return host.communicate(timeout=HANG_SECONDS)[1]
    except subprocess.TimeoutExpired:
        tally.faults.append(f"{plan.scenario.name}: the host hangs")
        host.kill()
        return host.communicate()[1]


def look(plan: Plan, out: Path, before: dict[str, bytes], told: bytes, tally: Tally) -> None:
    after = finished(out)
    lost = [name for name, content in before.items() if not after.get(name, b"").startswith(content)]
    if lost:
        tally.faults.append(f"{plan.scenario.name}: lost or changed: {', '.join(lost)}")
    orphans = left(out, plan)
    if orphans:
        said = "; ".join(f"{number}: {line_of(number)}" for number in orphans)
        tally.faults.append(f"{plan.scenario.name}: processes left: {said}")
        for number in orphans:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    if b"Traceback" in told and b"bncheck" not in told:
        tally.moments["before bncheck's first line"] += 1  # Python says so itself while it starts
    elif b"Traceback" in told:
        tally.faults.append(f"{plan.scenario.name}: {told.decode(errors='replace')[-600:]}")


def torture(
    folder: Path, kills: int, targets: Sequence[str], rng: random.Random, tell: Any = lambda text: None
) -> Tally:
    """Programs are made, played undisturbed, and played disturbed, until so many kills have been tried."""
    tally = Tally()
    # A shell starts what it runs in the background with interrupts ignored, and what that starts ignores them too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    while tally.kills.total() < kills:
        tally.runs += 1
        options = rng.choice(((), (), ("--isolate", "cell"), ("--jobs", "1")))
        mark = f"79.{os.getpid()}{tally.runs:03}"
        plan = Plan(scenario=program(folder, rng), targets=targets, options=options, mark=mark)
        calm, killed = folder / f"calm{tally.runs}", folder / f"killed{tally.runs}"
        began = time.monotonic()
        start(plan, calm, resume=False).communicate()
        took = time.monotonic() - began
        disturb(plan, killed, took, min(rng.randrange(3, 9), kills - tally.kills.total()), rng, tally)
        if (killed / "run.json").exists() and said(killed) != said(calm):
            tally.faults.append(f"{plan.scenario.name}: the resumed run says something else")
        tell(f"{tally.kills.total()} kills, {tally.runs} runs, {len(tally.faults)} faults {tally.faults[-1:]}")
        if not tally.faults:
            shutil.rmtree(calm)
            shutil.rmtree(killed)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-t", "--target", action="append", dest="targets")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    tally = torture(
        folder, options.kills, options.targets or OWN, random.Random(options.seed), lambda text: print(text, flush=True)
    )
    print(
        f"{tally.kills.total()} kills ({dict(tally.kills)}; {dict(tally.moments)}) "
        f"in {tally.runs} runs, {len(tally.faults)} faults"
    )
    for fault in tally.faults:
        print(f"  {fault}")
    if tally.faults:
        print(f"what was played lies in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
