"""Forwards that were looked at whole, on their way into files. Loaded by recorder.py by path; Python 3.7 and NumPy."""

import os

import numpy as np

CHUNK_UNITS, CHUNK_BYTES = 10, 4 << 20  # of one file of moments
BUDGET = 64 << 20  # bytes on disk per class of moments
MOST_BYTES = 1 << 30  # with --keep all
MOST_EVERY = 100  # units kept of "every"; beyond it every second goes, and the distance doubles


class Stream:
    """The files of one class of moments of one clock."""

    def __init__(self, recorder, kind, clock):
        self.recorder, self.kind, self.clock = recorder, kind, clock
        self.rows, self.units, self.bytes = {}, set(), 0
        self.files = []  # (path, bytes, units in it)
        self.number, self.full = 0, False

    def add(self, layer, unit, moment):
        if self.full:
            return False
        if unit not in self.units and (len(self.units) >= self.limit() or self.bytes > CHUNK_BYTES):
            self.write()
            self.recorder.tell()  # no moment is on disk before the counts that it belongs to
        self.rows.setdefault(layer, []).append(moment)
        self.units.add(unit)
        self.bytes += sum(getattr(value, "nbytes", 8) for value in moment.values())
        return True

    def limit(self):
        return 1 if self.kind == "every" else CHUNK_UNITS

    def write(self):
        if not self.rows:
            return
        arrays = {}
        for layer, moments in self.rows.items():
            names = [name for name in moments[0] if all(name in moment for moment in moments)]
            for name in names:
                arrays["%d/%s" % (layer, name)] = np.stack([np.asarray(moment[name]) for moment in moments])
        path = self.recorder.write_npz("%s-%d-%06d.npz" % (self.kind, self.clock.number, self.number), arrays)
        self.files.append((path, os.path.getsize(path), len(self.units)))
        self.number += 1
        self.rows, self.units, self.bytes = {}, set(), 0
        self.prune()

    def prune(self):
        held = sum(size for _, size, _ in self.files)
        share = BUDGET // max(1, self.recorder.streams_of(self.kind))
        keep = self.recorder.keep
        if self.kind in ("first", "note"):
            if held > (MOST_BYTES if keep.all else share):
                self.full = True
                self.recorder.remark("%d MB of forwards were kept whole; later ones are counted." % (held >> 20))
        elif self.kind == "last":
            while len(self.files) > 1 and (held > share or sum(units for _, _, units in self.files[1:]) >= keep.last):
                held -= self.drop(0)
        elif len(self.files) > MOST_EVERY or held > share:
            for at in range(len(self.files) - 1, 0, -1):
                if at % 2:
                    self.drop(at)
            self.clock.every = 2 * (self.clock.every or keep.every)

    def drop(self, at):
        path, size, _ = self.files.pop(at)
        os.unlink(path)
        return size
