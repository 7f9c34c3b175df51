"""``bncheck run --executor``: parts that others play, and what comes back from strangers.

The tests on a real cluster (a Dask scheduler and two workers) are slow and need Dask:
``pip install '.[test,dask]' && python -m pytest -m slow tests/test_fleet.py``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from at_the_prompt import bncheck, command, environment, here
from test_compare_runs import SCENARIO, content

from bncheck.environments.backend_file import find_backends
from bncheck.errors import BncheckError
from bncheck.fleet import parcel as parcels
from bncheck.fleet.elsewhere import Lost, Returns, carry_out_elsewhere, shortfalls, take_in, words_of
from bncheck.fleet.executor import Fleet, parse_address
from bncheck.fleet.parcel import pack, unpack
from bncheck.fleet.parts import Part, divide, plural_parts
from bncheck.fleet.player import play_part
from bncheck.playing.job import Limits
from bncheck.playing.jobs import Options
from bncheck.scenario_files.plan import Plan
from bncheck.session import Request, make_plan

TARGETS = ("reference", "reference[batch_weight=0.9]")
NAMED = ("-t", TARGETS[0], "-t", TARGETS[1])


class Silent:
    def expect(self, total: int) -> None:
        self.total = total

    def say(self, text: str) -> None: ...
    def cell(self, progress: Any) -> None: ...


@pytest.fixture
def sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a scenario of three cases, which is where we are."""
    (tmp_path / "sizes.toml").write_text(SCENARIO)
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plan(sizes: Path) -> Plan:
    return make_plan(Request(scenarios=("sizes.toml",), targets=TARGETS, probes=False), find_backends(()))


# --------------------------------------------------------------------------------------------------------- parts


def names(part: Part) -> list[str]:
    return [case.name for case in part.plan.cases]


def test_each_place_gets_a_part_and_no_part_is_empty(plan: Plan) -> None:
    assert [(part.target, part.index, part.of) for part in divide(plan, 2)] == [
        ("reference", 1, 1),
        ("reference[batch_weight=0.9]", 1, 1),
    ]
    four = divide(plan, 4)
    assert [(part.target, names(part)) for part in four] == [
        ("reference", ["2x2", "8x2"]),
        ("reference", ["4x2"]),
        ("reference[batch_weight=0.9]", ["2x2", "8x2"]),
        ("reference[batch_weight=0.9]", ["4x2"]),
    ]
    assert len(divide(plan, 1000)) == 6, "three cases, two targets"
    assert plural_parts(four) == "reference and reference[batch_weight=0.9]"
    assert plural_parts([four[1], four[2]]) == ("reference (part 2 of 2) and reference[batch_weight=0.9] (part 1 of 2)")


def test_parts_joined_are_the_run_as_it_is_played_here(sizes: Path) -> None:
    """By any executor of concurrent.futures: here threads, each of which starts a bncheck of its own."""
    whole = here("run", "sizes.toml", *NAMED, "--no-probe", "--no-report", "-q", "--out", "whole", cwd=sizes)
    assert whole.returncode == 0, whole.stderr
    request = Request(
        scenarios=("sizes.toml",),
        targets=TARGETS,
        probes=False,
        formats=("csv",),
        out=sizes / "fleet",
        check_order=True,
    )
    with ThreadPoolExecutor(2) as pool:
        run, results = carry_out_elsewhere(request, Silent(), Fleet("threads", pool, 2, lambda: 2))
    assert {cell.outcome for cell in results.cells} == {"ok"} and len(results.cells) == 6
    assert content(run) == content(sizes / "whole")
    assert len((run / "records.jsonl").read_text().splitlines()) == 6
    assert not (run / "parts").exists()
    assert len(list((run / "again" / "cells").iterdir())) == 2, "the second playing came back too"


# ----------------------------------------------------------------------------------------------- what comes back


def archive(path: Path, *held: tuple[str, bytes], mode: int = 0o644 | stat.S_IFREG) -> Path:
    with zipfile.ZipFile(path, "w") as found:
        for name, raw in held:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.create_system = mode << 16, 3
            found.writestr(info, raw)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "/etc/out",
        "a/../../out",
        "a//b",
        "a/./b",
        "..",
        "a\\..\\out",
        "a/",
        "a\x1bb",
        "d/" * 30 + "x",
        "n" * 300,
    ],
)
def test_no_path_climbs_out(tmp_path: Path, name: str) -> None:
    found = archive(tmp_path / "x.zip", ("good", b"1"), (name, b"2"))
    with pytest.raises(BncheckError, match="which is no file of a run folder"):
        unpack(found, tmp_path / "in")
    assert {path.name for path in tmp_path.iterdir()} == {"x.zip"}, "nothing was written"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFCHR])
def test_only_regular_files_are_taken(tmp_path: Path, kind: int) -> None:
    found = archive(tmp_path / "x.zip", ("link", b"/etc/passwd"), mode=kind | 0o777)
    with pytest.raises(BncheckError, match="which is no file of a run folder"):
        unpack(found, tmp_path / "in")


@pytest.mark.parametrize("held", [("a", "a/b"), ("a/b", "a")])
def test_a_file_that_is_a_folder_too_is_refused(tmp_path: Path, held: tuple[str, str]) -> None:
    found = archive(tmp_path / "x.zip", *((name, b"1") for name in held))
    with pytest.raises(BncheckError, match="which is no file of a run folder"):
        unpack(found, tmp_path / "in")


def test_what_is_larger_than_it_may_be_or_says_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = archive(tmp_path / "x.zip", ("a", b"1" * 60), ("b", b"1" * 60))
    monkeypatch.setattr(parcels, "LARGEST", 100)
    with pytest.raises(BncheckError, match="unpacks to 120 bytes, more than bncheck takes"):
        unpack(found, tmp_path / "in")
    monkeypatch.undo()
    with zipfile.ZipFile(tmp_path / "y.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a", b"0" * 1_000_000)
    raw = (tmp_path / "y.zip").read_bytes()
    lying = raw.replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "y.zip").write_bytes(lying)
    with pytest.raises(BncheckError, match=r"unpacks to another size than it declares|CRC"):
        unpack(tmp_path / "y.zip", tmp_path / "in")
    (tmp_path / "z.zip").write_bytes(raw[:200])
    with pytest.raises(BncheckError, match="cut off"):
        unpack(tmp_path / "z.zip", tmp_path / "in2")


def test_links_and_pipes_do_not_travel(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").write_text("1")
    (tmp_path / "home" / "writer.json").write_text("1")
    (tmp_path / "home" / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "home" / "pipe")
    (tmp_path / "sent.zip").write_bytes(pack(tmp_path / "home"))
    unpack(tmp_path / "sent.zip", tmp_path / "came")
    assert [path.name for path in (tmp_path / "came").iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"said": "the disk is full there", "remedy": "free some"}, "the disk is full there"),
        ({"run": b"not an archive"}, "what came back cannot be used: "),
        ("nonsense", "what came back is no run"),
        ({"run": "text"}, "what came back is no run"),
    ],
)
def test_a_part_that_cannot_be_used_is_lost_and_says_why(plan: Plan, sizes: Path, answer: Any, reason: str) -> None:
    part = divide(plan, 1)[0]
    (sizes / "parts").mkdir()
    future: Future[Any] = Future()
    future.set_result(answer)
    returns = Returns()
    take_in(future, part, sizes / "parts", {}, returns, Silent())
    assert returns.lost[part].reason.startswith(reason) and returns.sources == []


def test_one_sentence_per_reason(plan: Plan, sizes: Path) -> None:
    parts = divide(plan, 4)
    gone = Lost("each worker that played it died", "look at the workers' memory and logs")
    returns = Returns(lost={parts[0]: gone, parts[2]: gone, parts[3]: gone})
    (said,) = shortfalls(Request(), Path("run"), plan, parts, returns)
    assert said.sentence == (
        "reference (part 1 of 2) and reference[batch_weight=0.9] did not come back from the fleet: "
        "each worker that played it died"
    )
    assert said.remedy == ("look at the workers' memory and logs; play here what is missing: bncheck run --resume run")


def test_a_part_is_played_with_the_options_that_were_given(plan: Plan) -> None:
    options = Options(limits=Limits(cell_seconds=7.0), isolate=True)
    assert words_of(options, plan, fresh=True) == (
        "--no-report", "--quiet", "--fail-on", "never", "--timeout", "7.0", "--isolate", "cell", "--fresh",
    )  # fmt: skip


def test_a_worker_of_another_version_says_so() -> None:
    assert "is installed there, and 0.0.1 here" in str(play_part(b"", (), "0.0.1")["said"])


# --------------------------------------------------------------------------------------------- at the prompt


def test_an_address_is_one_or_a_sentence() -> None:
    assert parse_address("dask://10.0.0.5:8786") == ("10.0.0.5", 8786)
    assert parse_address("dask://[::1]:8786/") == ("[::1]", 8786)
    for wrong in ("", "dask://", "dask://host", "host:8786", "tcp://host:8786", "dask://host:0", "dask://host:99999"):
        with pytest.raises(BncheckError, match="is no address of a fleet"):
            parse_address(wrong)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--executor", "tcp://host:1"), 2, "Write dask://HOST:8786: a Dask scheduler."),
        (("--executor", "dask://127.0.0.1:9", "--shard", "1/2"), 2, "Leave out --resume and --shard."),
        (("--executor", "dask://127.0.0.1:9"), 3, "Nobody answers at dask://127.0.0.1:9: Connection refused."),
    ],
)
def test_what_cannot_be_asked_of_a_fleet_is_a_sentence(tmp_path: Path, words: Any, code: int, said: str) -> None:
    done = here("run", "all-ones", *words, cwd=tmp_path)
    assert done.returncode == code and said in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


def test_a_missing_dask_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        done = here("run", "all-ones", "--executor", f"dask://127.0.0.1:{port}", cwd=tmp_path)
    assert done.returncode == 3
    assert "needs Dask, which cannot be imported here" in done.stderr and "pip install distributed" in done.stderr
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ a real cluster

cluster_test = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="needs Dask: pip install '.[dask]'"
)


@dataclass
class Cluster:
    """A scheduler and its workers, each a process that is a group of its own."""

    port: int
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]

    @property
    def address(self) -> str:
        return f"dask://127.0.0.1:{self.port}"


def dask(name: str, *words: str, first: str = "") -> subprocess.Popen[bytes]:
    start = f"{first}\nfrom distributed.cli.dask_{name} import main\nmain()"
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-c", start, *words], stdout=quiet, stderr=quiet, env=environment(), start_new_session=True
    )


def end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two workers with one thread each, without nannies: who is killed stays dead. A parameter is Python that workers
    run before they begin."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = ("--host", "127.0.0.1", "--no-dashboard")
    scheduler = dask("scheduler", "--port", str(port), *common)
    to = f"tcp://127.0.0.1:{port}"
    own = ("--nthreads", "1", "--no-nanny")
    workers = [
        dask(
            "worker",
            to,
            *common,
            *own,
            "--local-directory",
            str(tmp_path / f"w{i}"),
            first=getattr(request, "param", ""),
        )
        for i in (1, 2)
    ]
    try:
        yield Cluster(port, scheduler, workers)
    finally:
        for process in (*workers, scheduler):
            end(process)


def wait_for_workers(cluster: Cluster, count: int) -> None:
    code = (
        "from distributed import Client\n"
        f"with Client('tcp://127.0.0.1:{cluster.port}', timeout=60) as client: client.wait_for_workers({count}, 60)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
@cluster_test
def test_two_workers_play_what_one_machine_plays(cluster: Cluster, sizes: Path) -> None:
    wait_for_workers(cluster, 2)
    words = ("run", "sizes.toml", *NAMED, "--no-report", "-q", "--out")
    for out, more in (("whole", ()), ("fleet", ("--executor", cluster.address))):
        done = bncheck(*words, out, *more, cwd=sizes)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert without_dates(content(sizes / "fleet")) == without_dates(content(sizes / "whole"))
    alone = ("-t", "reference", "--no-reference", "--check-order", "--no-report", "-q", "--out", "one")
    done = bncheck("run", "sizes.toml", *alone, "--executor", cluster.address, cwd=sizes)
    assert done.returncode == 0, done.stderr
    assert json.loads((sizes / "one" / "plan.json").read_text())["check_order"] is True


def without_dates(found: Any) -> Any:
    """Without the day on which conventions were measured: the second run takes them from the first."""
    return {**found, "targets": [{**target, "measured_on": ""} for target in found["targets"]]}


@pytest.mark.slow
@cluster_test
@pytest.mark.parametrize("cluster", ["import sys; sys.modules['bncheck'] = None"], indirect=True)
def test_workers_without_bncheck_are_said_and_live_on(cluster: Cluster, sizes: Path) -> None:
    wait_for_workers(cluster, 2)
    done = bncheck("run", "sizes.toml", *NAMED, "--executor", cluster.address, cwd=sizes)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "can play: no bncheck that can be imported, where" in done.stderr, done.stderr
    assert [worker.poll() for worker in cluster.workers] == [None, None], "others may be using them"


@pytest.mark.slow
@cluster_test
def test_a_worker_that_dies_is_played_by_the_other_and_both_are_a_sentence(cluster: Cluster, sizes: Path) -> None:
    wait_for_workers(cluster, 2)
    (sizes / "sizes.toml").write_text(SCENARIO.replace("repeat = 3", "repeat = 3000"))
    begun = start(cluster, sizes, "one")
    end(cluster.workers[0])
    assert begun.wait(300) == 0
    cells = json.loads((sizes / "one" / "run.json").read_text())["cells"]
    assert [cell["outcome"] for cell in cells if cell["scenario"] == "sizes"] == 6 * ["ok"]
    none_left = start(cluster, sizes, "none", first="import bncheck.fleet.elsewhere as e; e.ALONE_SECONDS = 3.0")
    end(cluster.workers[1])
    assert none_left.wait(120) == 3
    said = (sizes / "none.txt").read_text()
    assert "there was no worker for 3 s" in said and "Traceback" not in said, said
    again = bncheck("run", "--resume", "none", "--no-report", "-q", cwd=sizes)
    assert again.returncode == 0, again.stderr
    assert without_dates(content(sizes / "none")) == without_dates(content(sizes / "one"))
    assert parts_left() == [], "what a killed worker had started ended with it"


@pytest.mark.slow
@cluster_test
@pytest.mark.parametrize("what", ["scheduler", "prompt"])
def test_a_scheduler_that_goes_away_and_ctrl_c_leave_a_readable_run(cluster: Cluster, sizes: Path, what: str) -> None:
    wait_for_workers(cluster, 2)
    (sizes / "sizes.toml").write_text(SCENARIO.replace("repeat = 3", "repeat = 3000"))
    begun = start(cluster, sizes, "run")
    if what == "scheduler":
        end(cluster.scheduler)
    else:
        begun.send_signal(signal.SIGINT)
    assert begun.wait(120) == (3 if what == "scheduler" else 130)
    said = (sizes / "run.txt").read_text()
    assert "--resume run" in said and "Traceback" not in said, said
    assert (sizes / "run" / "run.json").exists() and not (sizes / "run" / "parts").exists()


def start(cluster: Cluster, folder: Path, out: str, first: str = "") -> subprocess.Popen[bytes]:
    """A run that two workers play by now; what it says is in a file."""
    words = command(
        "run", "sizes.toml", *NAMED, "--no-report", "--executor", cluster.address, "--out", out, first=first
    )
    with (folder / f"{out}.txt").open("wb") as said:
        begun = subprocess.Popen(words, stdout=said, stderr=said, cwd=folder, env=environment())
    for _ in range(600):
        if len(parts_left()) >= sum(worker.poll() is None for worker in cluster.workers):
            return begun
        time.sleep(0.1)
    raise AssertionError("no worker began within a minute")


def parts_left() -> list[str]:
    """Processes that play a part for a worker, on this machine."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "bncheck.fleet.tied" in line]


@pytest.mark.slow
@cluster_test
def test_what_is_no_scheduler_and_one_without_workers_are_sentences(cluster: Cluster, sizes: Path) -> None:
    for worker in cluster.workers:
        end(worker)
    for _ in range(100):
        done = bncheck("run", "sizes.toml", *NAMED, "--executor", cluster.address, cwd=sizes)
        if "Nobody answers" not in done.stderr:
            break
    assert done.returncode == 3 and "has no workers" in done.stderr, done.stderr
    page = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler);" \
           "print(s.server_port, flush=True); s.serve_forever()"  # fmt: skip
    web = subprocess.Popen([sys.executable, "-c", page], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert web.stdout is not None
        port = web.stdout.readline().strip()
        done = bncheck("run", "sizes.toml", *NAMED, "--executor", f"dask://127.0.0.1:{port}", cwd=sizes)
    finally:
        web.kill()
        web.communicate()
    assert done.returncode == 3 and "is no Dask scheduler" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
