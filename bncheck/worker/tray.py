"""What cells came to, on its way to the target's ``cells.tar``.

Loaded by run.py by path, behind what it loads itself. Python 3.7 syntax.
"""

import errno
import json
import os
import sys

archive = sys.modules["bncheck_worker_archive"]

BEHIND = b', "dtype": '  # of a line of the cases: the end of what is its own
# Exit codes; the cell that was played is left without a result.
DISK_FULL = 113  # there is no room for it
DISTURBED = 114  # somebody has taken its folder away, or changed what it plays from


class Tray:
    """Results of cells that are alike and quick, written a few at a time: what runs once between a thousand other
    things takes two to four times as long as when it comes again at once.

    Alike are those that say the same behind their inputs; quick are 5 ms and less. So nothing waits for a cell of which
    nobody knows how long it takes, and who dies at one has at most a moment of others to play again.
    """

    MOST, QUICK = 32, 0.005
    HEAVY = 1 << 22  # bytes, as Played reckons them: what waits is in memory

    def __init__(self, path):
        self.path, self.kind, self.waiting, self.weight = path, b"", [], 0

    def make_room(self, line):
        """Before a cell is played: the ones that waited are written if this one says something else than they did."""
        kind = line.partition(BEHIND)[2]
        if kind != self.kind:
            self.write()
            self.kind = kind

    def put(self, name, played):
        self.waiting.append((name, played))
        self.weight += played.weight
        full = len(self.waiting) >= self.MOST or self.weight > self.HEAVY
        if full or not played.can_wait or played.seconds > self.QUICK:
            self.write()

    def write(self):
        waiting, self.waiting, self.weight = self.waiting, [], 0
        if waiting:
            type(waiting[0][1]).prepare([played for _, played in waiting])
            write_cells(self.path, [(name,) + played.told() for name, played in waiting])


def write_cells(path, told):
    """Append trace.npz and result.json of cells, (name, result, arrays) each, to the target's tar, in one write.

    A trace that cannot be written (too large, objects in it) makes its own cell *crashed*, no other. Where the disk is
    full, or the folder gone, the cell keeps no result: it is played again when there is room.
    """
    entries = []
    try:
        for name, result, arrays in told:
            packed = b"" if arrays is None else archive.pack_npz(arrays)
            entries += [(name + "/trace.npz", packed)] if packed else []
            entries.append(result_entry(path, name, result, packed))
        archive.append_entries(path, entries)
    except (OSError, ValueError) as error:
        if len(told) > 1:
            for each in told:
                write_cells(path, [each])
            return
        ((name, result, _),) = told
        end_without_place(error)
        message = "its trace could not be written: %s" % error
        result = dict(result, outcome="crashed", error={"type": type(error).__name__, "message": message})
        archive.append_entries(path, [result_entry(path, name, result, b"")])


def end_without_place(error):
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        os._exit(DISK_FULL)
    if number in (errno.ENOENT, errno.ENOTDIR):
        os._exit(DISTURBED)


def result_entry(path, name, result, packed):
    """The result says which trace is its own, and is sealed to its target and cell (``archive.seal``)."""
    whole = dict(result, trace=archive.digest(packed) if packed else "")
    target = os.path.basename(os.path.dirname(path))
    return name + "/result.json", archive.seal(target, name, json.dumps(whole).encode("utf-8"))
