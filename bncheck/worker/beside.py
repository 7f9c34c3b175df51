"""Parts of backends, loaded by their path: a worker runs with -I, and nothing here is a package to it.

A backend loads this file by its own path and is given the rest by name. Python 3.7 syntax.
"""

import importlib.util
import os
import sys

WORKER = os.path.dirname(os.path.abspath(__file__))


def part_of(side):
    """The function ``part(name)`` of a backend whose own parts lie in ``<side>_side``; ``part(name, other)`` is a
    file of another side. Each file is one module of the process, whoever asks for it."""

    def part(name, side=side):
        full = "bncheck_%s_%s" % (side, name)
        if full not in sys.modules:
            spec = importlib.util.spec_from_file_location(full, os.path.join(WORKER, side + "_side", name + ".py"))
            sys.modules[full] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[full])
        return sys.modules[full]

    return part
