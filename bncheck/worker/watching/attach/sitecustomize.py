"""Put on PYTHONPATH by ``bncheck watch``: waits for a framework to be imported, then attaches the recorder.

Nothing is imported here that the interpreter has not imported itself: a file of the user's, beside the script or on
PYTHONPATH, may have the name of any other module. Whatever goes wrong here must leave the user's program as it is. The
user's own sitecustomize, which this one hides, is run as well.
"""

import os
import sys

FILES, START = sys.modules["_frozen_importlib_external"], sys.modules["_frozen_importlib"]
HERE = os.path.dirname(os.path.abspath(__file__))
WATCHING = os.path.dirname(HERE)
WORKER = os.path.dirname(WATCHING)
FRAMEWORKS = ("torch", "keras", "paddle", "flax", "mxnet")  # whose backend file has watch(recorder)


def mark(folder, name):
    """Leave an empty file that says how far a process came."""
    try:
        os.makedirs(os.path.join(folder, "marks"), exist_ok=True)
        os.close(os.open(os.path.join(folder, "marks", name), os.O_CREAT | os.O_WRONLY, 0o644))
    except OSError:
        pass  # a full disk, or a folder that is gone: nobody is told, and the program goes on


def load(name, path):
    """A file as a module, by its path: nothing of ours is importable by name in the user's program."""
    if name not in sys.modules:
        spec = FILES.spec_from_file_location(name, path)
        module = START.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


class Waiting:
    """A finder that finds nothing, and wraps the loader of a framework so that the recorder is attached behind it."""

    def __init__(self, wanted):
        self.wanted, self.awaited = wanted, set(FRAMEWORKS)

    def find_spec(self, name, path=None, target=None):
        if name not in self.awaited:
            return None
        finders = [each for each in sys.meta_path if each is not self and hasattr(each, "find_spec")]
        found = (each.find_spec(name, path, target) for each in finders)
        spec = next((each for each in found if each is not None), None)
        if spec is None or not hasattr(spec.loader, "exec_module"):
            return None
        self.awaited.discard(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            del spec.loader.exec_module  # the framework's loader is again what it is without us
            execute(module)
            attach(name, self.wanted)

        spec.loader.exec_module = exec_module
        return spec


def attach(framework, wanted):
    try:
        mark(wanted["folder"], framework)
        recorder = load("bncheck_watching_recorder", os.path.join(WATCHING, "recorder.py"))
        backend = load("bncheck_watched_" + framework, os.path.join(WORKER, "backends", framework + ".py"))
        backend.watch(recorder.Recorder(wanted))
    except (Exception, SystemExit) as error:  # the user's program must run as it would without us
        said = "%s: %s" % (type(error).__name__, error)
        try:
            with open(os.path.join(wanted["folder"], "marks", "failed"), "w", encoding="utf-8") as handle:
                handle.write(said[:2000])
        except OSError:
            pass


def wait():
    text = os.environ.get("BNCHECK_WATCH")
    if not text:
        return
    keep, steps, folder = text.split(" ", 2)
    wanted = {"folder": folder, "keep": keep, "steps": int(steps) or None}
    mark(wanted["folder"], "python")
    sys.meta_path.insert(0, Waiting(wanted))


def user_sitecustomize():
    """Run the sitecustomize that this one hides. What it raises is reported by the interpreter as ever."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != HERE]
    spec = FILES.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = START.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)
    else:
        # As without us: no module of this name. The interpreter ignores an ImportError that names it.
        sys.modules.pop("sitecustomize", None)
        raise ImportError("no sitecustomize but that of bncheck watch", name="sitecustomize")


try:
    wait()
except Exception:  # an environment that somebody edited: no recording, and the host says that nothing attached
    pass
user_sitecustomize()
