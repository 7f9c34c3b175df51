"""Writes into running statistics that nothing which is known did: whose they are, how many, and since when."""

from __future__ import annotations

from bncheck.diagnosis.rules.layer_names import of_all
from bncheck.life import Happening, Life

STATISTICS = ("running_mean", "running_var")
# The recorder of these tells a load and a reset from what else writes.
TELLING = ("torch",)


def jumps_of(life: Life, layer: str, by: str | None = None) -> dict[str, list[Happening]]:
    """running_mean, running_var → what was told of them in a layer; ``by``: of one cause alone."""
    told: dict[str, list[Happening]] = {}
    for each in life.happenings:
        quantity = str(each.detail.get("quantity"))
        meant = by is None or each.detail.get("by", "") == by
        if meant and each.what == "jump" and layer in each.layers and quantity in STATISTICS:
            told.setdefault(quantity, []).append(each)
    return told


def how_often(jumps: dict[str, list[Happening]]) -> int:
    """A write into both is one."""
    return max((sum(counted(each) for each in found) for found in jumps.values()), default=0)


def counted(jump: Happening) -> int:
    times = jump.detail.get("times", 1)
    return times if isinstance(times, int) else 1


def written(life: Life) -> str:
    """One sentence on layers that train and whose statistics were written into between their forwards; "" where there
    are none. It may be meant so: no finding, and silence would read as if nothing had been seen."""
    if life.framework not in TELLING:
        return ""
    found = {
        layer.name: jumps
        for layer in life.layers
        if any(span.training for span in layer.spans) and (jumps := jumps_of(life, layer.name, by=""))
    }
    if not found:
        return ""
    most = max(how_often(jumps) for jumps in found.values())
    what = [each for each in STATISTICS if any(each in jumps for jumps in found.values())]
    first = min(each.step for jumps in found.values() for told in jumps.values() for each in told)
    times = "once" if most == 1 else f"{most:,} times"
    first_in = "in" if most == 1 else "first in"
    return (
        f"Something that is no forward, no load_state_dict() and no reset_running_stats() wrote into "
        f"{' and '.join(what)} of {of_all(list(found), life)}, {times}, {first_in} step {first:,}. "
        "Eval uses what it left."
    )
