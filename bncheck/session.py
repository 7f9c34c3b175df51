"""One whole run: what was asked → plan, interpreters, workers, analysis, files. Shared by commands, prints nothing."""

from __future__ import annotations

import gc
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from signal import SIGINT
from threading import Thread
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bncheck.bounded import is_there
from bncheck.environments.backend_file import BackendFile, find_backends
from bncheck.environments.devices import cores, why_not
from bncheck.environments.fork import do_together, may_fork
from bncheck.environments.lineup import line_up, require
from bncheck.environments.pythons import Ready, parse_pythons
from bncheck.environments.pythons import prepare as prepare_environments
from bncheck.environments.targets import DEFAULT_TARGETS, Target, parse_targets
from bncheck.errors import Interrupted, Refused, RunFolderError, UsageError
from bncheck.gate.bar import Bar, hold, write_verdict
from bncheck.gate.shortfall import Asked, Shortfall, shortfalls
from bncheck.playing.fitted import keep_fitted, read_fitted
from bncheck.playing.jobs import Options, as_it_ran, run_cells, serves
from bncheck.playing.kept import KeptProbes, shelves
from bncheck.playing.plan_file import read_plan, remember_order, write_plan
from bncheck.playing.progress import Listener, Progress
from bncheck.playing.seats import Seat, seated
from bncheck.playing.shard import Shard, take
from bncheck.run_folder.answer import Answer, write_answer
from bncheck.run_folder.folder import create_run_folder, find_run, make_way
from bncheck.run_folder.results import Results, TargetResult, write_results
from bncheck.run_folder.whole import whole_characters
from bncheck.run_folder.writer import only_writer
from bncheck.scenario import Case, Scenario, Tolerance, is_file
from bncheck.scenario_files.overrides import parse_override
from bncheck.scenario_files.plain_file import read_plain
from bncheck.scenario_files.plan import Plan, code_of, with_tolerance
from bncheck.scenario_files.remembered import read_remembered
from bncheck.scenario_files.shipped import SHIPPED, find_with, resolve_scenario

if TYPE_CHECKING:
    from bncheck.convention import Convention
    from bncheck.diagnosis.views import Ahead

Measured = dict[str, "dict[str, Convention]"]  # target → layer path → convention


def default_targets() -> tuple[str, ...]:
    """CPU and GPU of one framework side by side, where this machine shows a GPU."""
    devices = [device for device in ("cuda", "mps") if why_not(device) is None]
    return (*DEFAULT_TARGETS, *(f"torch@{device}" for device in devices))


@dataclass(frozen=True)
class Request:
    """What a user asked for. ``probes`` adds the probe scenarios; ``chosen`` False runs nothing but them. ``alone``
    forbids that the reference is added to a single target."""

    scenarios: Sequence[str] = ()
    targets: Sequence[str] = ()
    overrides: Sequence[str] = ()
    out: Path | None = None
    resume: Path | None = None
    allow_code: bool = False  # of custom layers that a resumed run folder holds
    pythons: Sequence[str] = ()
    backend_files: Sequence[Path] = ()
    probes: bool = True
    chosen: bool = True
    options: Options = Options()
    formats: Sequence[str] = ("csv", "plots", "html")
    require: Sequence[str] = ()
    optional: Sequence[str] = ()
    alone: bool = False
    bar: Bar = Bar()
    tolerance: Tolerance = Tolerance()
    shard: Shard | None = None
    check_order: bool = False  # play everything a second time, last case first
    fresh: bool = False  # play the probes, also where an earlier run's are kept
    # A verb on a subject: what its results say in one line, and what of them is its own (run_folder/answer.py).
    concluding: Callable[[Results], tuple[Results, Answer]] | None = None
    command: str = field(default_factory=lambda: shlex.join(["bncheck", *sys.argv[1:]]))


def carry_out(request: Request, listener: Listener) -> tuple[Path, Results]:
    """Play and judge; returns the run folder and what was found. An interrupt still leaves a readable run."""
    backends = find_backends(request.backend_files)
    pythons = parse_pythons(request.pythons, backends)
    with ExitStack() as held:
        run, plan, targets = open_run(request, backends, held)
        try:
            return run, play_and_judge(request, listener, backends, pythons, run, plan, targets)
        except KeyboardInterrupt as stop:
            raise Interrupted(run, resuming(request, run, plan), getattr(stop, "number", SIGINT)) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            raise Refused(
                f"the system refused{where}: {error.strerror or error}",
                f"finished cells are kept; free space, then: {resuming(request, run, plan)}",
            ) from error


def resuming(request: Request, run: Path, plan: Plan) -> str:
    """The command that goes on with an interrupted run."""
    words = ["bncheck", "run", "--resume", str(run)]
    words += [word for path in request.backend_files for word in ("--backend-file", str(path))]
    words += [word for text in request.pythons for word in ("--python", text)]
    return shlex.join(words + ["--allow-code"] * bool(code_of(plan)))


def play_and_judge(
    request: Request,
    listener: Listener,
    backends: Mapping[str, BackendFile],
    pythons: Mapping[str, Path],
    run: Path,
    plan: Plan,
    targets: Sequence[Target],
) -> Results:
    places = prepare_environments(targets, backends, pythons, listener.say)
    seats = [seated(target, backends[target.backend], places[target]) for target in targets]
    nursery = request.options.nursery
    if nursery is not None and not any(serves(nursery, seat) for seat in seats):
        nursery.close()  # what was expected to be asked for is not
    documented = {target.name: backends[target.backend].documented for target in targets}
    ready = {target.name: place for target, place in places.items() if isinstance(place, Ready)}
    begun = has_begun(run)
    kept = KeptProbes(run, {} if begun else shelves(plan, seats, ready, request.options))
    if not request.fresh and not plan.check_order:
        kept.lay_out(plan, {target.name: target.slug for target in targets})
    listener.expect((len(plan.cases) + len(plan.repeated)) * len(ready) - kept.cells)
    reports = Thread(target=import_reports, args=(request.formats, plan), daemon=True)
    beside = Meanwhile(run, plan, seats, documented, kept, reports)

    def hear(progress: Progress) -> None:
        listener.cell(progress)
        beside.hear(progress)

    try:
        found = run_cells(run, plan, seats, request.options, hear, beside.pieces())
        repeated = repeated_cases(plan, found)
        if repeated:
            from bncheck.playing.again import play_again

            listener.say(f"playing {len(repeated)} cases again, last case first")
            played = [replace(place, result=target) for place, target in zip(seats, found, strict=True)]
            play_again(run, repeated, played, request.options, listener.cell)
        end = request.concluding
        seen = beside.measured, beside.ahead
        return conclude(run, plan, found, documented, request.formats, listener, request.bar, *seen, end)
    except KeyboardInterrupt:
        targets_now = [place.result for place in seats]
        conclude(run, plan, targets_now, documented, ("csv",), listener, request.bar, beside.measured)
        raise
    finally:
        if reports.ident is not None:
            reports.join()  # Python ends with SIGABRT while another thread is in the middle of an extension's C++


def has_begun(run: Path) -> bool:
    """Whether anything was played in it; one that was only planned may still take what an earlier run has measured."""
    return is_there(run / "records.jsonl")


def repeated_cases(plan: Plan, targets: Sequence[TargetResult]) -> list[Case]:
    """What is played a second time: not what an earlier run has played, maybe in another order of its own."""
    kept = plan.background if any(target.measured_on for target in targets) else ()
    return [case for case in plan.repeated if case.scenario not in kept]


@dataclass
class Meanwhile:
    """What the host does while workers play: it measures each target's conventions and looks at what it has played. For
    that, at the end, all would be waited for."""

    run: Path
    plan: Plan
    seats: Sequence[Seat]
    documented: Mapping[str, Sequence[Mapping[str, Any]]]
    kept: KeptProbes
    reports: Thread  # imports them
    measured: Measured = field(default_factory=dict)
    ahead: Ahead = field(default_factory=dict)
    fitted: Measured = field(default_factory=dict)
    ended: list[TargetResult] = field(default_factory=list)

    def hear(self, progress: Progress) -> None:
        """A target has ended: what its probes show is its convention."""
        if progress.kind != "ended" or progress.text:
            return
        from bncheck.diagnosis.analyse import beside_documented, fit_target

        seat = next(seat for seat in self.seats if seat.result.name == progress.target)
        target = as_it_ran(self.run, seat.result, {})
        with leaving_what_is_in_the_way():
            found = self.fitted.pop(target.name, None) or fit_target(self.run, self.plan, target)
            self.measured[target.name] = beside_documented(found, target, self.documented[target.name])
            where = self.kept.keep(target)
            if where is not None:
                keep_fitted(*where, target.name, found)
            self.ended.append(target)

    def pieces(self) -> Iterator[bool]:
        """A piece of work each time, once workers know what to play: until then it would only be in their way. False:
        there is none now."""
        self.reports.start()
        yield True
        for seat in self.seats:
            if seat.result.name in self.kept.taken:
                with leaving_what_is_in_the_way():
                    self.fitted[seat.result.name] = self.fit_kept(seat.result)
                yield True
        looked = 0
        while True:
            if looked < len(self.ended) and self.has_a_core:
                from bncheck.diagnosis.views import look_ahead

                target, looked = self.ended[looked], looked + 1
                known = self.measured[target.name], self.documented[target.name]
                with leaving_what_is_in_the_way():
                    for _ in look_ahead(self.run, self.plan, target, *known, self.ahead):
                        yield True
            yield False

    def fit_kept(self, target: TargetResult) -> dict[str, Convention]:
        """What fits the probes that an earlier run has played, as that one found it if it has."""
        shelf, cells = self.kept.taken[target.name]
        found = read_fitted(shelf, cells, target.name)
        if found is None:
            from bncheck.diagnosis.analyse import fit_target

            found = fit_target(self.run, self.plan, target)
            keep_fitted(shelf, cells, target.name, found)
        return found

    @property
    def has_a_core(self) -> bool:
        """Whether one is free: what is done beside workers that need all of them only makes these slower."""
        return sum(seat.python is not None for seat in self.seats) - len(self.ended) < cores()


@contextmanager
def leaving_what_is_in_the_way() -> Iterator[None]:
    """Something that plays at this moment may have put a link in the place of another target's cell. When nothing plays
    any more it is cleared (``make_way``), and what could not be looked at before is looked at."""
    try:
        yield
    except RunFolderError:
        return


def conclude(
    run: Path,
    plan: Plan,
    targets: Sequence[TargetResult],
    documented: Mapping[str, Sequence[Mapping[str, Any]]],
    formats: Sequence[str],
    listener: Listener,
    bar: Bar = Bar(),
    measured: Mapping[str, Mapping[str, Convention]] = MappingProxyType({}),
    ahead: Ahead | None = None,
    concluding: Callable[[Results], tuple[Results, Answer]] | None = None,
    lost: Sequence[Shortfall] = (),
) -> Results:
    """Judge what is on disk, write run.json, whether it fails (gate.json), and the reports. ``lost`` was asked for and
    did not come, beyond what the results show."""
    from bncheck.diagnosis.analyse import analyse
    from bncheck.report import render

    make_way(run)
    gc.freeze()  # what is imported stays to the end: collecting garbage need not walk through it again
    in_two = do_together if may_fork() else None
    results = analyse(run, plan, targets, documented, listener.say, measured, cores(), ahead, in_two)
    if concluding is not None:
        results, answer = concluding(results)
        write_answer(answer, run)
    write_results(results, run)
    write_verdict(hold(results, bar, date.today(), (*lost, *missed(plan, results))), run)
    render(run, formats, listener.say, results=results)
    return results


def missed(plan: Plan, results: Results) -> tuple[Shortfall, ...]:
    """What the plan asked for and did not come."""
    cases = [case for case in plan.cases if case.scenario not in plan.background]
    twice = any(case.scenario not in plan.background for case in plan.repeated)
    whole = bool(cases) and all(case.network.model is not None for case in cases)
    return shortfalls(
        results, Asked(required=plan.required, alone=plan.alone, part="index" in plan.part, repeated=twice, whole=whole)
    )


def open_run(
    request: Request, backends: Mapping[str, BackendFile], held: ExitStack
) -> tuple[Path, Plan, tuple[Target, ...]]:
    """A new run folder with its plan, or an old one to go on with. Nothing is written for a request that is wrong.

    ``held`` keeps other writers out of the folder until it is closed."""
    if request.resume is not None:
        if request.scenarios or request.targets or request.optional or request.out or request.overrides:
            raise UsageError(
                "--resume goes on with the scenarios and targets of that run.",
                "Leave out scenarios, --target, --optional, --set and --out.",
            )
        run = find_run(request.resume)
        if request.fresh and has_begun(run):
            raise UsageError("--resume goes on with what that run has measured.", "Leave out --fresh, or start anew.")
        held.enter_context(only_writer(run))
        plan = read_plan(run)
        refuse_code(plan, request)
        if request.check_order and not plan.check_order:
            plan = replace(plan, check_order=True)
            remember_order(run)
        targets = parse_targets(plan.targets, backends)
        required = (*plan.required, *require(request.require, targets, (), backends))
        return run, replace(plan, required=tuple(dict.fromkeys(required))), targets
    plan = make_plan(request, backends)
    targets = parse_targets(plan.targets, backends)
    run = create_run_folder(request.out)
    held.enter_context(only_writer(run))
    write_plan(run, plan)
    return run, plan, targets


def refuse_code(plan: Plan, request: Request) -> None:
    """A run folder may come from anywhere: the code in it runs only when the user says so."""
    files = code_of(plan)
    if files and not request.allow_code:
        raise UsageError(
            f"Going on with this run executes code that lies in its folder: {', '.join(files)}.",
            "Look at it; if you trust it, add --allow-code.",
        )


def make_plan(request: Request, backends: Mapping[str, BackendFile]) -> Plan:
    """Load the scenarios that were asked for, and the probes behind them; say who plays."""
    overrides = dict(parse_override(text) for text in request.overrides)
    if "network.file" in overrides and request.scenarios:
        from bncheck.scenario_files.model_file import with_input_of_file

        overrides = with_input_of_file(overrides, resolve_scenario(request.scenarios[0]))
    shipped = read_shipped(request)
    chosen = choose(request, shipped, overrides, backends) if request.chosen else []
    names = [scenario.name for scenario in chosen]
    probes = [each for each in shipped if each.probe and each.name not in names and request.probes]
    lineup = line_up(request.targets, request.optional, chosen, default_targets(), backends, request.alone)
    needed = (*lineup.required, *require(request.require, lineup.targets, request.optional, backends))
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    background = tuple(probe.name for probe in probes)
    scenarios = tuple(with_tolerance(scenario, request.tolerance) for scenario in chosen + probes)
    plan = Plan(
        scenarios=scenarios,
        targets=tuple(target.name for target in lineup.targets),
        background=background,
        overrides=absolute(overrides),
        command=whole_characters(request.command),
        created=created,
        tolerance=request.tolerance,
        check_order=request.check_order,
        required=tuple(dict.fromkeys(needed)),
        alone=request.alone,
    )
    return take(plan, request.shard) if request.shard else plan


def read_shipped(request: Request) -> list[Scenario]:
    """The shipped scenarios that it may be about: reading all takes longer than most of what is asked of one."""
    keys = ["default"] if request.chosen and not request.scenarios else []
    keys += ["probe"] if request.probes else []
    return read_remembered(find_with(*keys)) if keys else []


def absolute(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Files that overrides name, as absolute paths: a run may be resumed from another folder."""
    named = ("network.custom", "network.file", "network.model")
    return {
        key: str(Path(value).absolute()) if key in named and is_file(str(value)) else value
        for key, value in overrides.items()
    }


def choose(
    request: Request, shipped: Sequence[Scenario], overrides: Mapping[str, Any], backends: Mapping[str, BackendFile]
) -> list[Scenario]:
    if request.scenarios:
        paths = [resolve_scenario(name) for name in dict.fromkeys(request.scenarios)]
        return [read_plain(path, overrides) or read_whole(path, overrides, backends) for path in paths]
    if overrides:
        raise UsageError("--set changes one scenario, and none is named.", "Name it: bncheck run SCENARIO --set …")
    return [scenario for scenario in shipped if scenario.default and not scenario.probe]


def read_whole(path: Path, overrides: Mapping[str, Any], backends: Mapping[str, BackendFile]) -> Scenario:
    if path.parent in SHIPPED and not overrides:
        return read_remembered([path])[0]
    from bncheck.scenario_files.files import load_scenario  # with pydantic, which not every request needs

    return load_scenario(path, overrides, backends=backends)


def import_reports(formats: Sequence[str], plan: Plan) -> None:
    """Import what judging and the reports need while the workers import their frameworks: it saves most of a second."""
    import numpy.ma  # noqa: F401 - np.unique imports it when first called, which is behind the workers

    import bncheck.diagnosis.analyse
    import bncheck.report.terminal
    from bncheck.diagnosis.rules import load_rules
    from bncheck.report import prepare

    load_rules()
    prepare(formats)
    if "plots" in formats:
        from bncheck.report.kept_pictures import are_likely

        asked = [scenario.name for scenario in plan.scenarios if scenario.name not in plan.background]
        if not are_likely(asked, plan.targets):
            import bncheck.report.case_plot  # noqa: F401 - matplotlib
