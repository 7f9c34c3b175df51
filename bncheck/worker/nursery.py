"""A process that has imported a framework, and forks for each job: an import takes longer than all that is played.

    python -I nursery.py REQUESTS REPLIES MODULE

Python 3.7 syntax; REQUESTS and REPLIES are numbers of open pipes, MODULE is the framework. It computes nothing itself:
threads that a framework has started do not survive a fork.

A request is a line of JSON: ``entry`` ("run.py" or "subject/run.py" of this folder), ``folder`` (its argument),
``environment`` (variables), ``output`` (a file for stdout and stderr, or ""). The replies are ``{"pid"}`` in the order
of the requests, and ``{"pid", "code"}`` when one has ended (code < 0: a signal). Who has ended keeps its number until
the nursery ends, which it does when nobody holds the other end of REQUESTS.
"""

import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def entry(name):
    """The module of a file of this folder, as ``python -I FILE`` would begin with it."""
    full = "bncheck_nursery_" + name.replace("/", "_")[:-3]
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, os.path.join(HERE, *name.split("/")))
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


def main(requests, replies, module):
    entry("guard.py").end_with_host(os.getppid())
    entry("run.py")  # before anybody waits for it
    try:
        importlib.import_module(module)
    except BaseException:  # each job meets it by itself, and says it
        pass
    gc.freeze()
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    running, over, waiting = set(), [], b""
    while True:
        ready = select.select([requests, awake], [], [])[0]
        if awake in ready:
            os.read(awake, 4096)
            for pid, code in ended(running):
                running.discard(pid)
                over.append(pid)
                say(replies, {"pid": pid, "code": code})
        if requests in ready:
            found = os.read(requests, 65536)
            if not found:
                for pid in over:
                    os.waitpid(pid, 0)  # the system then counts its time as ours
                os._exit(0)
            *lines, waiting = (waiting + found).split(b"\n")
            for line in lines:
                pid = os.fork()
                if not pid:
                    for descriptor in (requests, replies, awake, wake):
                        os.close(descriptor)
                    born(json.loads(line.decode("utf-8")), module)
                running.add(pid)
                say(replies, {"pid": pid})


def ended(running):
    for pid in sorted(running):
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            yield pid, found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def say(replies, words):
    os.write(replies, json.dumps(words).encode("utf-8") + b"\n")


def born(job, module):
    """A job's own process: its own group, signals and variables, as if it had been started by itself."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.environ.update(job["environment"])
        sys.argv = [os.path.join(HERE, *job["entry"].split("/")), job["folder"]]
        if job["output"]:
            descriptor = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        threads(job["environment"], sys.modules.get(module))
        code = play(job)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def threads(environment, framework):
    """The framework has read the variables already, when it was imported."""
    count = environment.get("OMP_NUM_THREADS")
    if count and hasattr(framework, "set_num_threads"):
        framework.set_num_threads(int(count))


def play(job):
    module = entry(job["entry"])
    if job["entry"] == "run.py":
        module.main(job["folder"], *module.begin(job["folder"]))
    else:
        module.main(job["folder"])
    return 0


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
