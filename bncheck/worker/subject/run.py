"""Make one thing of the user's in the user's own interpreter and say what it is. This docstring is the protocol.

    python -I run.py FOLDER
    python -I run.py FOLDER --alone     the same once more by hand, when its host is gone

Python 3.7 syntax, standard library + NumPy + torch; bncheck itself is never imported.

``FOLDER/job.json`` (in)
    ``module`` (a package's name, or the absolute path of a file) and ``name`` (of a class or function in it), ``with``
    (keywords), ``as`` ("layer", "model" or "": whichever it shows to be), ``inputs`` (each ``{"dtype", "shape"}``; may
    be empty), ``framework`` ("torch", "keras", …), ``weights``, ``data`` (paths or ""), ``steps`` (of training),
    ``host`` (number of the process that started this one, which ends with it).
``FOLDER/subject.json`` (out, last)
    ``kind`` "layer" (with what ``look.py`` says), "model" (with what ``model.py`` says), or "error": ``error`` is a
    sentence, ``remedy`` what to do, ``origin`` whose it is (subject, import, usage, bncheck). It is missing where the
    process died. Beside it lie the arrays that it speaks of (``held.npz``, ``recording.npz``, ``alone.npz``).
"""

import faulthandler
import importlib.util
import json
import os
import sys
import traceback

WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def part(folder, name):
    """A neighbouring file, loaded by its path: the process runs with -I, and nothing here is a package to it."""
    full = "bncheck_%s_%s" % (folder.replace("_side", "") or "worker", name)
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, os.path.join(WORKER, folder, name + ".py"))
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


class SubjectError(Exception):
    """A sentence about the user's thing, with what to do about it."""

    def __init__(self, text, remedy="", origin="subject"):
        super().__init__(text)
        self.remedy, self.origin = remedy, origin


def play(job, folder):
    framework = job.get("framework", "torch")
    if framework != "torch":
        return part(framework + "_side", "look").play(part, SubjectError, job, folder)
    import torch

    if (os.cpu_count() or 1) < 4:
        torch.set_num_threads(1)  # the host imports what it judges with beside this process
    look = part("subject", "look")
    functions = [] if job.get("play") else part("subject", "transformed").run_as_written(torch)
    thing = look.find(torch, part, SubjectError, job)
    if thing.kind == "layer":
        return look.as_layer(thing)
    if job.get("play") == "outputs":  # of bncheck diff
        return part("subject", "outputs").play(torch, part, SubjectError, job, thing, folder)
    if job.get("play") == "changed":  # of bncheck diff --after
        return part("subject", "changed").play(torch, part, SubjectError, job, thing, folder)
    found = part("subject", "model").play(torch, part, SubjectError, job, thing, folder)
    if functions:
        said = "torch.compile() was taken off %s: it runs as it was before." % ", ".join(dict.fromkeys(functions))
        found["remarks"].append(said)
    return found


def answer(job, folder):
    try:
        return play(job, folder)
    except SubjectError as error:
        return {"kind": "error", "error": str(error), "remedy": error.remedy, "origin": error.origin}
    except (Exception, SystemExit) as error:
        framework = job.get("framework", "torch")
        if framework not in sys.modules:  # an import that fails leaves nothing there
            text = "%s does not import: %s: %s" % (framework, type(error).__name__, str(error)[:500])
            remedy = "see it by itself: %s -c 'import %s'" % (sys.executable, framework)
            return {"kind": "error", "error": text, "remedy": remedy, "origin": "import"}
        if isinstance(error, SystemExit):
            raise
        told = traceback.format_exc()[-4000:]
        text = "%s: %s" % (type(error).__name__, str(error)[:500])
        return {"kind": "error", "error": text, "remedy": "", "origin": "bncheck", "traceback": told}


def main(folder):
    with open(os.path.join(folder, "job.json"), encoding="utf-8") as handle:
        job = json.load(handle)
    if "--alone" not in sys.argv:
        part("", "guard").guard(job["host"])
    faulthandler.enable()
    found = json.dumps(answer(job, folder))
    path = os.path.join(folder, "subject.json")
    with open(path + ".part", "w", encoding="utf-8") as handle:
        handle.write(found)
    os.replace(path + ".part", path)
    sys.stdout.flush()
    os._exit(0)  # taking torch down takes 0.1 s, and nothing is left to do


if __name__ == "__main__":
    main(sys.argv[1])
