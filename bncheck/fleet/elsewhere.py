"""A run whose parts others play: plan → parts → run folders that come back → one run folder, judged here."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from bncheck import __version__
from bncheck.environments.backend_file import BackendFile, find_backends
from bncheck.environments.targets import parse_targets
from bncheck.errors import BncheckError, Interrupted, UsageError
from bncheck.fleet.executor import Fleet, first_line
from bncheck.fleet.parcel import pack, unpack
from bncheck.fleet.parts import Part, divide, plural_parts
from bncheck.fleet.player import play_part
from bncheck.gate.shortfall import Shortfall
from bncheck.joining.runs import Source, copy_cells, join, open_sources
from bncheck.playing.cases_file import write_cases
from bncheck.playing.jobs import Options
from bncheck.playing.plan_file import write_plan
from bncheck.playing.progress import Listener, Progress
from bncheck.run_folder.folder import create_run_folder, write_json
from bncheck.run_folder.results import Results, TargetResult
from bncheck.run_folder.writer import only_writer
from bncheck.scenario_files.plan import Plan, code_of
from bncheck.session import Request, conclude, make_plan, resuming

if TYPE_CHECKING:
    from bncheck.run_folder.results import CellResult

LOOK_SECONDS = 2.0
ALONE_SECONDS = 60.0  # without any worker, after which nobody is waited for any more


@dataclass(frozen=True)
class Lost:
    """Parts that were not played, for one reason."""

    reason: str
    remedy: str = ""


@dataclass
class Returns:
    """What has come back: run folders that were verified, and parts that were lost."""

    sources: list[Source] = field(default_factory=list)
    lost: dict[Part, Lost] = field(default_factory=dict)


def carry_out_elsewhere(
    request: Request, listener: Listener, fleet: Fleet, given: Sequence[str] = ()
) -> tuple[Path, Results]:
    """As ``session.carry_out``, with the cells played by a fleet; ``given`` are more options of each part's command.
    An interrupt still leaves a readable run."""
    refuse_what_stays(request)
    backends = find_backends(())
    plan = make_plan(request, backends)
    run = create_run_folder(request.out)
    with ExitStack() as held:
        held.enter_context(only_writer(run))
        write_plan(run, plan)
        parts = divide(plan, fleet.slots)
        returns = Returns()
        words = (*words_of(request.options, plan, request.fresh), *given)
        folders = run / "parts"
        folders.mkdir()
        held.callback(shutil.rmtree, folders, ignore_errors=True)
        if fleet.remark:
            listener.say(fleet.remark)
        listener.say(f"{len(parts)} parts for {fleet.slots} places at {fleet.address}")
        listener.expect(sum(len(part.plan.cases) for part in parts))
        try:
            collect(words, plan, parts, fleet, folders, returns, listener)
            return run, finish(request, run, plan, parts, returns, backends, listener, request.formats)
        except KeyboardInterrupt as stop:
            finish(request, run, plan, parts, returns, backends, listener, ("csv",))
            raise Interrupted(run, resuming(request, run, plan), getattr(stop, "number", SIGINT)) from None


def refuse_what_stays(request: Request) -> None:
    """What is of this machine alone."""
    if request.pythons or request.backend_files:
        raise UsageError(
            "--python and --backend-file name files of this machine, and a fleet plays on others.",
            "Leave them out, or leave out --executor.",
        )


def collect(
    words: Sequence[str],
    plan: Plan,
    parts: Sequence[Part],
    fleet: Fleet,
    folders: Path,
    returns: Returns,
    listener: Listener,
) -> None:
    """Hand out all parts, and take in what comes back, in whatever order."""
    waiting: dict[Future[Any], Part] = {
        fleet.executor.submit(play_part, parcel_of(part), words, __version__): part for part in parts
    }
    try:
        keys = write_cases(folders.parent, plan.cases)
        write_json(folders.parent / "contents.json", keys)
        for future in arriving(waiting, fleet):
            part = waiting[future]
            take_in(future, part, folders, keys, returns, listener)
            listener.say(f"{part.name}: {'not played' if part in returns.lost else 'came back'}")
    finally:
        for future in waiting:
            future.cancel()
    for future, part in waiting.items():
        if future.cancelled() and part not in returns.lost:
            returns.lost[part] = Lost(f"there was no worker for {ALONE_SECONDS:.0f} s", "start workers, and try again")


def arriving(waiting: Mapping[Future[Any], Part], fleet: Fleet) -> Iterator[Future[Any]]:
    """Futures as they end; none any more where all workers have been gone for a while."""
    left, since = set(waiting), time.monotonic()
    while left:
        done, left = wait(left, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
        yield from sorted(done, key=list(waiting).index)
        if done or fleet.workers():
            since = time.monotonic()
        elif time.monotonic() - since > ALONE_SECONDS:
            return


def words_of(options: Options, plan: Plan, fresh: bool) -> tuple[str, ...]:
    """The command line of a part, behind ``bncheck run --resume FOLDER``."""
    words = ["--no-report", "--quiet", "--fail-on", "never", "--timeout", str(options.limits.cell_seconds)]
    words += ["--isolate", "cell"] if options.isolate else []
    words += ["--fresh"] if fresh else []
    return (*words, *(["--allow-code"] if code_of(plan) else []))


def parcel_of(part: Part) -> bytes:
    """``plan.json`` and the scenario files, with what lies beside them and they name."""
    with tempfile.TemporaryDirectory(prefix="bncheck-plan-") as scratch:
        write_plan(Path(scratch), part.plan)
        return pack(Path(scratch))


# ------------------------------------------------------------------------------------------------ what comes back


def take_in(
    future: Future[Any],
    part: Part,
    folders: Path,
    keys: Mapping[str, str],
    returns: Returns,
    listener: Listener,
) -> None:
    """The part's run folder, verified; or why there is none."""
    error = None if future.cancelled() else future.exception()
    answer = None if future.cancelled() or error is not None else future.result()
    if error is not None or future.cancelled():
        returns.lost[part] = blame(error)
    elif not isinstance(answer, dict) or not isinstance(answer.get("run"), bytes):
        said = answer if isinstance(answer, dict) else {}
        returns.lost[part] = Lost(str(said.get("said", "what came back is no run"))[:1000], str(said.get("remedy", "")))
    else:
        try:
            source = receive(answer["run"], part, folders, keys)
        except BncheckError as refused:
            returns.lost[part] = Lost(f"what came back cannot be used: {refused.message.rstrip('.')}", refused.remedy)
            return
        returns.sources.append(source)
        tell(source, listener)


def blame(error: BaseException | None) -> Lost:
    """Why a part has no answer, from what the executor raises."""
    if error is None or type(error).__name__ == "FutureCancelledError":
        return Lost("the scheduler went away", "look at it, and try again")
    if type(error).__name__ == "KilledWorker":
        return Lost("each worker that played it died", "look at the workers' memory and logs")
    return Lost(f"{type(error).__name__}: {first_line(error)}", "look at the worker's log")


def receive(parcel: bytes, part: Part, folders: Path, keys: Mapping[str, str]) -> Source:
    """Unpack a run folder and hold it against what was asked; RunFolderError where it is something else."""
    name = f"{len(list(folders.glob('*.zip')))}"
    archive, folder = folders / f"{name}.zip", folders / name
    archive.write_bytes(parcel)
    unpack(archive, folder)
    archive.write_bytes(b"")  # its number stays taken
    (source,) = open_sources([str(folder)], lambda text: None)
    asked = {case.id: keys[case.id] for case in part.plan.cases}
    if dict(source.keys) != asked or [target.name for target in source.results.targets] != [part.target]:
        raise UsageError(f"it is not what was asked of {part.name}", "install the same version on all machines")
    return replace(source, label=part.name, plan=replace(source.plan, part=part.plan.part))


def tell(source: Source, listener: Listener) -> None:
    for target in source.results.targets:
        if target.status != "ok":
            listener.cell(Progress(target.name, "unavailable", text=target.reason))
    for cell in source.results.cells:
        listener.cell(finished(cell))


def finished(cell: CellResult) -> Progress:
    return Progress(cell.target, "finished", cell=f"{cell.scenario}--{cell.case}", outcome=cell.outcome)


# --------------------------------------------------------------------------------------------------- one run again


def finish(
    request: Request,
    run: Path,
    plan: Plan,
    parts: Sequence[Part],
    returns: Returns,
    backends: Mapping[str, BackendFile],
    listener: Listener,
    formats: Sequence[str],
) -> Results:
    """Join what came, judge it, and say what did not come."""
    plan, targets = put_together(run, plan, parts, returns, backends)
    documented = {target.name: backends[target.backend].documented for target in targets if target.backend in backends}
    lost = shortfalls(request, run, plan, parts, returns)
    said = {part.target for part in returns.lost}  # why a target is missing is said once
    required = tuple(name for name in plan.required if name not in said)
    return conclude(
        run, replace(plan, required=required), targets, documented, formats, listener, request.bar, lost=lost
    )


def put_together(
    run: Path, plan: Plan, parts: Sequence[Part], returns: Returns, backends: Mapping[str, BackendFile]
) -> tuple[Plan, tuple[TargetResult, ...]]:
    """The cells of all parts in the run folder, and the targets as they turned out: one that two machines have in two
    versions is two. The plan stays whole where it can, so that what is missing can be played: ``--resume``."""
    handed_out = [part.name for part in parts]
    sources = sorted(returns.sources, key=lambda source: handed_out.index(source.label))
    came: dict[str, TargetResult] = {}
    if sources:
        joined = join(sources, plan.command, plan.created)
        copy_cells(joined, sources, run)
        came = {target.name: target for target in joined.targets}
    names = {*came} | {source.results.targets[0].name for source in sources}
    absent = [absentee(target, plan, returns, backends) for target in plan.targets if target not in names]
    came |= {target.name: target for target in absent}
    order = {name: number for number, name in enumerate(plan.targets)}
    targets = tuple(sorted(came.values(), key=lambda target: order.get(target.name, len(order))))
    if {target.name for target in targets} != {*plan.targets}:
        plan = replace(plan, targets=tuple(target.name for target in targets))
        write_plan(run, plan)
    return plan, targets


def absentee(name: str, plan: Plan, returns: Returns, backends: Mapping[str, BackendFile]) -> TargetResult:
    """A target of which no part came back."""
    (target,) = parse_targets([name], backends)
    lost = next(
        (why for part, why in returns.lost.items() if part.target == name), Lost("its parts were not waited for")
    )
    return TargetResult(
        name=target.name,
        slug=target.slug,
        backend=target.backend,
        variant=target.variant,
        version=target.version,
        device=target.device,
        status="unavailable",
        reason=lost.reason,
        remedy=lost.remedy,
    )


def shortfalls(
    request: Request, run: Path, plan: Plan, parts: Sequence[Part], returns: Returns
) -> tuple[Shortfall, ...]:
    """A sentence per reason for which parts were lost."""
    by_reason: dict[Lost, list[Part]] = {}
    for part in parts:
        if part in returns.lost:
            by_reason.setdefault(returns.lost[part], []).append(part)
    resume = f"play here what is missing: {resuming(request, run, plan)}"
    found = []
    for lost, concerned in by_reason.items():
        names = plural_parts(concerned)
        remedy = "; ".join(filter(None, (lost.remedy, resume)))
        found.append(
            Shortfall(f"{names} did not come back from the fleet: {lost.reason}", remedy, f"{names} did not come back")
        )
    return tuple(found)
