"""Run the cells of one target in the target's own interpreter. This docstring is the worker protocol.

    python -I run.py JOB_DIR
    python -I run.py JOB_DIR --alone       the same once more by hand, in a debugger, when its host is gone
    python -I run.py --later HOST BACKEND VARIANT DEVICE
                                           imports the framework, then reads JOB_DIR, a line, from stdin; it ends by
                                           itself where the import fails, so that another process says why

Python 3.7 syntax, standard library + NumPy + one framework; bncheck itself is never imported. The backend file
is loaded by its path, because a sibling called ``torch.py`` would otherwise shadow the framework.

**Files in** (written by the host before the worker starts)

``JOB_DIR/job.json``
    ``protocol`` 1, ``backend`` (path of the backend file), ``variant``, ``device``, ``inputs`` (folder of input
    archives, relative to JOB_DIR), ``cases`` (the file of the cases, likewise), ``memory_limit`` (bytes of address
    space or null), ``host`` (number of the process that started this one: without it nobody reads what is played, and
    the worker ends).
``JOB_DIR/cells.json``
    ``cells``: names of the cells to run, in order; ``cases``: digest (``archive.py``) of the file of cases. It may come
    later than the others, when everything below is there: the worker imports its framework meanwhile.
``<cases>``
    A line of JSON per case, the same for all targets: ``cell`` (its name, always the first key), ``protocol``,
    ``inputs`` (file name in the inputs folder), ``digest`` (of that file), ``dtype``, ``network``, ``events``,
    ``sample`` (how many elements of each network output to keep), ``views`` (input: how its batches lie in memory,
    where not contiguous).
    ``network.layers`` holds the fields of ``scenario.Layer``; an event has ``op``, ``input``, ``batch`` and
    ``arguments``; ``ops`` says of every op among them what ``scenario.Op`` does: ``runs``, ``reads``, ``call``,
    ``records``, ``folder``.
``<inputs>/<key>.npz``
    ``x/<input>`` (U, batch…), ``dy/<input>`` (U, output…), ``param/<layer>/<name>``. The worker owns no random
    generator: all targets see the same bytes.

**Files out**

``JOB_DIR/environment.json``   what ``describe()`` said, once the framework is imported; ``unavailable`` and
                               ``remedy`` in it mean that no cell was run.
``JOB_DIR/progress.txt``       one line, the cell's name, whenever a cell starts; "." when the last one is done.
``JOB_DIR/stderr.txt``         stdout and stderr of the process. Nothing on either is data.
``JOB_DIR/cells.tar``          grows by two entries with every cell that is done, in one write; those of quick cells
                               that differ in their inputs alone come a few at a time (``tray.py``), in their order:
``  <cell>/trace.npz``         the arrays of ``bncheck/trace.py``,
``  <cell>/result.json``       last: its absence means that the process died, had no room on the disk (it then ends
                               with exit code 113), or was disturbed by somebody who took its folder away or changed
                               what it plays from (114). ``protocol``, ``outcome`` (ok, raised,
                               unsupported), ``event``, ``error``, ``failed`` (records of all events that were not
                               ok: raised, unsupported, skipped, or failed: by nobody that is looked at here),
                               ``dtypes``, ``artifacts``, ``notes``, ``seconds``. An error that was raised says in
                               ``origin`` whose it is (``blame.py``). ``trace`` is the digest of the trace, ``seal``,
                               last of all, that of everything before it, the target and the cell (``archive.py``).
``JOB_DIR/<cell>/``            only where there is something for it: ``stderr.txt``, what was printed during the
                               cell (its last 64 kB), and files that its events wrote (exported models).

**The backend contract**: a module with literal constants (read by the host without importing the file: TITLE,
MODULE, DISTRIBUTION, DEFAULT_VERSION, VARIANTS, DEVICES, REQUIREMENTS, DOCUMENTED) and two functions

``describe(variant, device)``
    imports the framework and returns a JSON-able dict with at least ``version``; raises ``RuntimeError(reason)``
    when the device or variant cannot run here (that is *unavailable*, never a failure).
``build(network, params, dtype, variant, device)``
    returns a model. ``params`` maps ``<layer>/<name>`` to arrays; one that is missing keeps the framework's own value.

A model has

``forward(x, mode)``        mode "train", "eval", "no_grad" or "as_is"; NumPy in, NumPy out.
``backward(dys)``           one upstream gradient per forward since the last backward (the same again when there
                            was none); returns {"input": gradient by the last input or None, "<layer>/gamma": …,
                            "<layer>/beta": …}.
``layers``                  names of its BatchNorm layers, in order.
``taps()``                  {layer: (input, output)} of the last forward, NumPy.
``state(layer)``            running_mean, running_var, counter, gamma, beta, training, momentum, eps: as held now;
                            a key that the layer does not have is left out.
``axis(layer)``             channel axis of the arrays that taps() returns (1 or -1).
``dtypes(layer)``           optional: {quantity: "bfloat16"} where state() had to widen.
``facts()``                 optional: what is to be said of the whole cell; kept as ``notes["cell"]``.
``keep_graph``              set before each backward: whether another backward through the same forwards follows.
any other event             a method of the event's name taking its arguments as keywords (with ``folder`` in its own
                            row of ops also ``folder``, with ``reads`` also ``x``, a batch of its input), returning
                            None or {"output": array, "arrays": {name: array, kept as ``name/<event>``},
                            "artifacts": [...], "notes": {...}}. A missing method, or
                            NotImplementedError(reason) from any call, is *unsupported*.

Of a whole network (``network.model``) ``notes["cell"]`` also says which ``layers`` are the user's own, and ``alone``
which of them were played by themselves, whose arrays are in the trace (``own_side/alone.py``); the line of its case
knows all events. A model of one with a method ``see(x)`` is shown a batch before anything is played.

A backend with ``CUSTOM = True`` puts ``network.custom`` ("/path/file.py:Class") in the place of its BatchNorm layers,
or is an oracle that ignores it; its state may then hold ``graph_nodes``, ``graph_bytes`` and ``running_covar``, and
``network.parts`` and ``network.oracle`` say what it takes and what it is held against. One with ``WHOLE = True``
takes ``network.model`` ("/path/file.py:function"), called with the keywords ``network.arguments``, as the network. One
with ``FILES = True`` takes ``network.file``, the path of an ONNX file, as the network.
``REPLICAS``, ``COPIES`` and ``SHARES`` = True: it divides batches among ``network.replicas``, keeps a copy of the
network (``network.copied``), and uses a layer once more where another is ``same_as`` it; its ``layers`` then also hold
``bn@1`` (replica 1) or ``bn@copy``. A model with an attribute ``view`` lays the coming inputs out in memory as that
says: permuted (axes 1 and last stored swapped), strided (every second value along the last axis) or sliced (the
middle of two channels more, along axis 1).
"""

import atexit
import faulthandler
import gc
import importlib.util
import json
import marshal
import os
import platform
import sys
import time


def read_json(path):
    with open(path, encoding="utf-8") as handle:
        return json.load(handle)


def part(name):
    """A neighbouring file, loaded by its path: the worker runs with -I, and nothing here is a package to it."""
    full = "bncheck_worker_" + name
    if full not in sys.modules:
        folder = os.path.dirname(os.path.abspath(__file__))
        spec = importlib.util.spec_from_file_location(full, os.path.join(folder, name + ".py"))
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


def begin(folder, guarded=False):
    """What has to stand before anything is imported that takes long or may fail: (job, descriptor of the output)."""
    job = read_json(os.path.join(folder, "job.json"))
    if not guarded and "--alone" not in sys.argv:
        part("guard").guard(job["host"])
    output = redirect_output(os.path.join(folder, "stderr.txt"))
    faulthandler.enable(output)
    return job, output


def redirect_output(path):
    """Send file descriptors 1 and 2 to one file and return its descriptor; noise never meets data."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    return descriptor


LATER = __name__ == "__main__" and sys.argv[1] == "--later"
BEGUN = begin(sys.argv[1]) if __name__ == "__main__" and not LATER else None
if LATER:
    part("guard").guard(int(sys.argv[2]))

import numpy as np  # noqa: E402 - an environment without it says so where the host looks

STDERR_KEPT = 64 * 1024
MOST_SAID = 1000000  # bytes of what a target says of itself


archive, blame = part("archive"), part("blame")
cells, tray = part("cell"), part("tray")


def write_json(path, value):
    archive.write_file(path, json.dumps(value).encode("utf-8"))


# ---------------------------------------------------------------------------------------------------- process


def load_backend(path):
    name = "bncheck_backend_" + os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def describe_machine():
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform_name(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
    }


def platform_name():
    """What ``platform.platform()`` says; on Linux without starting ``uname -p`` for a word that it then leaves out."""
    if not sys.platform.startswith("linux"):
        return platform.platform()
    here, libc = os.uname(), "".join(platform.libc_ver())
    return "-".join([here.sysname, here.release, here.machine] + (["with", libc] if libc else []))


def processor_name():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
            for line in handle:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the platform module knows
    return platform.processor()


def describe_target(job, load):
    """(backend module or None, environment dict). Importing is part of it: a broken install is *unavailable*."""
    began = time.perf_counter()
    machine = describe_machine()
    judge = blame.Judge([], False, job["backend"], "")
    try:
        backend = load(job["backend"])
        machine.update(backend.describe(job["variant"], job["device"]))
    except RuntimeError as error:
        return None, dict(machine, unavailable=str(error))
    except cells.ERRORS as error:
        origin, where = judge.of(error)
        what = "the backend file is wrong" if origin == "backend" else "the framework does not import"
        text = blame.worded("%s: %s: %s" % (what, type(error).__name__, error), origin, where)
        return None, dict(machine, unavailable=text)
    machine["import_seconds"] = time.perf_counter() - began
    size = len(json.dumps(machine))
    if size > MOST_SAID:
        text = "the backend file is wrong: describe() says %d bytes of itself, more than %d" % (size, MOST_SAID)
        return None, dict(describe_machine(), unavailable=text)
    return backend, machine


def limit_memory(limit):
    """Bound the address space. Only asked for on CPU targets: CUDA reserves far more than it uses."""
    if limit:
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)  # whoever started bncheck may have set a lower one
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def keep_output(descriptor, folder):
    """Move what a cell printed into its own stderr.txt, the last 64 kB of it."""
    sys.stdout.flush()
    sys.stderr.flush()
    size = os.fstat(descriptor).st_size
    if not size:
        return
    start = max(0, size - STDERR_KEPT)
    if os.path.islink(folder):
        os.unlink(folder)
    os.makedirs(folder, exist_ok=True)
    archive.write_file(os.path.join(folder, "stderr.txt"), os.pread(descriptor, size - start, start))
    os.ftruncate(descriptor, 0)


def load_inputs(path, digest, _latest=[]):  # noqa: B006 - the default holds the last archive, which neighbours share
    if not _latest or _latest[0] != path:
        try:
            _latest[:] = [path, archive.read_npz(path, digest)]
        except (OSError, ValueError):
            os._exit(tray.DISTURBED)
    return _latest[1]


def await_cells(folder):
    """The cells to run and the digest of the file of cases, as soon as the host has named them."""
    path = os.path.join(folder, "cells.json")
    while not os.path.exists(path):
        time.sleep(0.002)
    return read_json(path)


def read_cases(path, digest):
    """Cell name → its line of JSON. Each line begins with the name, which holds no quote: it is read when its turn
    comes."""
    try:
        raw = archive.read_regular(path)
    except OSError:
        os._exit(tray.DISTURBED)
    if archive.digest(raw) != digest:
        os._exit(tray.DISTURBED)
    return {line.split(b'"', 4)[3].decode("utf-8"): line for line in raw.splitlines()}


def task_of(line, _latest=[]):  # noqa: B006 - the default holds what neighbours share
    """What a line of the cases says, in objects of its own. Behind its own name and inputs most say what the line
    before them said: marshal reads that in a quarter of JSON's time."""
    own, word, rest = line.partition(tray.BEHIND)
    if not word:
        return json.loads(line.decode("utf-8"))
    if not _latest or _latest[0] != rest:
        _latest[:] = [rest, marshal.dumps(json.loads((b'{"dtype": ' + rest).decode("utf-8")))]
    return dict(json.loads((own + b"}").decode("utf-8")), **marshal.loads(_latest[1]))


def main(folder, job, output, described=None):
    try:
        work(folder, job, output, described)
    except OSError as error:  # of the protocol's own files: what a backend raises stays in its cell
        tray.end_without_place(error)
        raise


def work(folder, job, output, described=None):
    """``described``: what ``describe_target`` gave, where the framework was imported before there was a job."""
    parent = os.getppid()
    limit_memory(job.get("memory_limit"))
    # A measurement of NaN and Inf is full of them: NumPy's warnings would only be noise.
    np.seterr(all="ignore")
    backend, environment = described or describe_target(job, load_backend)
    os.ftruncate(output, 0) if backend is not None else None
    gc.freeze()  # collecting garbage would walk through the framework's 370,000 objects every few hundred cells
    write_json(os.path.join(folder, "environment.json"), environment)
    if backend is None:
        return
    inputs, done = os.path.join(folder, job["inputs"]), os.path.join(folder, "cells.tar")
    progress = os.open(os.path.join(folder, "progress.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    asked = await_cells(folder)
    cases = read_cases(os.path.join(folder, job["cases"]), asked["cases"]) if asked["cells"] else {}
    waiting, through = tray.Tray(done), False
    for name in asked["cells"]:
        if os.getppid() != parent:
            break  # the host was killed: a resumed run plays the rest
        waiting.make_room(cases[name])
        os.write(progress, (name + "\n").encode("utf-8"))
        cell, task = os.path.join(folder, name), task_of(cases[name])
        given = load_inputs(os.path.join(inputs, task["inputs"]), task.get("digest", ""))
        waiting.put(name, cells.play_cell(cell, task, given, backend, job))
        keep_output(output, cell)
    else:
        through = True
    waiting.write()
    if through:
        os.write(progress, b".\n")


def begin_later(path, variant, device):
    """(folder, what ``describe_target`` gave), once the host says where to play."""
    np.seterr(all="ignore")
    described = describe_target({"backend": path, "variant": variant, "device": device}, load_backend)
    line = sys.stdin.buffer.readline() if described[0] is not None else b""
    if not line.endswith(b"\n"):
        os._exit(0)
    folder = os.fsdecode(line[:-1])
    sys.argv[1:] = [folder]
    return folder, described


def leave():
    """End at once: everything is written, and taking a framework's modules apart takes longer than a small cell."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__" and LATER:
    FOLDER, DESCRIBED = begin_later(*sys.argv[3:])
    main(FOLDER, *begin(FOLDER, guarded=True), described=DESCRIBED)
    leave()
elif __name__ == "__main__":
    main(sys.argv[1], *BEGUN)
    leave()
