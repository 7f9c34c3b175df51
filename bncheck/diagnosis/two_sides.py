"""Sentences about two targets, as they read where these are a layer of the user's and the framework's own."""

from __future__ import annotations

import re

VARIANCES = r"averages the variance over \1 into running_var, {theirs} the one over \2."
VERSION = r"[0-9][^ ,:')]*[^ ,:').]"  # and device; a full stop or a bracket behind it is the sentence's


def without_targets(title: str, name: str, framework: str, targets: tuple[str, str]) -> str:
    """A finding's sentence that names the layer ``name`` and the framework's; ``targets`` are those of either."""
    theirs = f"{framework}'s"
    mine, builtin = (re.escape(target) for target in targets)
    for pattern, words in (
        (rf"{re.escape(name)} in {mine} {VERSION}", name),
        (rf"{builtin}( {VERSION})?'s", theirs),
        (rf"{builtin}( {VERSION})?", theirs),
        (rf"(?<!\w){mine} {VERSION}", name),
        (r"(the network's|its) output", "the output"),
        (rf"divides the variance that is averaged by (\S+), {theirs} by (\S+)\.", VARIANCES.format(theirs=theirs)),
        (rf"y is ([0-9.]+) times as large on {theirs}", rf"{theirs} y is \1 times as large"),
        (r" (of|normalises) bn\b", lambda match: " normalises" if match[1] == "normalises" else ""),
    ):
        title = re.sub(pattern, words, title)
    return title
