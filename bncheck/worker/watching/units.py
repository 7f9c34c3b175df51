"""Which forwards of a running program are looked at whole. Loaded by recorder.py by path; Python 3.7 syntax.

A **beat** is one call of the outermost module. Beats of one model in one mode share a **clock**; its **units** are what
``--keep`` counts: the beats of one optimiser step, or single beats where no optimiser steps (evaluation).
"""

DUTY = 16  # of the later units one in so many is looked at whole, for "last"
MOST_BEATS = 16  # of one unit: more without an optimiser step are units of their own
ALL = "all"


class Keep:
    """Which units are kept whole: ``first:50,last:50,every:100`` or ``all``."""

    def __init__(self, text):
        self.all = text == ALL
        words = {} if self.all else dict(item.split(":") for item in text.split(",") if item)
        self.first, self.last, self.every = (int(words.get(name, 0)) for name in ("first", "last", "every"))

    def look(self, unit):
        """Whether a unit is looked at whole. Of the later ones, which may turn out to be the last, about one in DUTY
        is, scattered by a fixed pattern so that no rhythm of the program hides from it."""
        if self.all or unit < self.first or (self.every and unit % self.every == 0):
            return True
        return bool(self.last) and scattered(unit)

    def classes(self, unit):
        """The classes of file that a unit which was looked at goes to."""
        if self.all or unit < self.first:
            return ("first",)
        return ("every",) * bool(self.every and unit % self.every == 0) or ("last",)


def scattered(unit):
    return ((unit * 2654435761) & 0xFFFFFFFF) >> 16 & 0xFF < 256 // DUTY


class Clock:
    """Beats of one model in one mode."""

    def __init__(self, number):
        self.number, self.unit, self.step, self.beats, self.stepless, self.every = number, -1, -1, 0, False, None
        self.rest = 0  # units to look at whole after something notable

    def beat(self, step):
        """Begin a beat; True if it begins a unit."""
        self.beats += 1
        if step == self.step and not self.stepless and self.unit >= 0:
            if self.beats <= MOST_BEATS:
                return False
            self.stepless = True
        if step != self.step:
            self.stepless = False
        self.step, self.beats = step, 1
        self.unit += 1
        self.rest = max(0, self.rest - 1)
        return True
