"""The recorder that rides along in a user's program. This docstring is the format of a recording.

``bncheck watch`` puts the folder ``attach`` in front of PYTHONPATH and ``BNCHECK_WATCH`` (what to keep, how many
steps or 0, the folder) into the environment. ``attach/sitecustomize.py`` waits for the framework to be imported and
hands a ``recorder.Recorder`` to ``watch(recorder)`` of its backend file, which installs the hooks. Python 3.7 syntax,
NumPy and the framework. Each process that runs a normalising layer makes a folder of its own:

``<folder>/<pid>-<n>/about.json``  once: protocol, framework, version, program, command, pid, rank, world, keep
``…/log.jsonl``    grows: a line per layer as it is met or renamed (``layer``), per closed span (``span``), per
                   happening (``what``) and per remark (``remark``)
``…/state.json``   written whole with every flush: steps, forwards, left_out, spans that are open, happenings that came
                   too often to log each (their number, and the last of them), ended
``…/<class>-<clock>-<number>.npz``  moments, arrays ``<layer>/<quantity>`` as in ``bncheck/life.py``. Classes: first,
                   every, last (a ring: the oldest are deleted), note (around something notable)

``<folder>/marks/`` holds empty files that say how far processes came at all: ``python`` (the recorder was reached),
``<framework>`` (it was imported), ``forward`` (a normalising layer ran).
"""
