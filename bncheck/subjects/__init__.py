"""The verbs that start from what somebody holds: ``check`` a thing, ``diff`` two, ``watch`` a command.

A subject lives in its owner's interpreter, into which nothing is installed: what runs there are files of
``bncheck/worker`` (Python 3.7, NumPy and that framework), reached by path. What they record comes back as data
(:mod:`bncheck.life`), is judged by the rules (``diagnosis/alone.py``), and is concluded here like a run: the same
folder, the same reports, the same exit codes, with an ``answer.json`` beside ``run.json`` (``run_folder/answer.py``).
"""
