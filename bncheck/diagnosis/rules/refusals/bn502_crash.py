"""The process of the target died or hung in this case.

Signature: no result was written; the run folder has the signal, the stack of every thread and the last lines of
stderr. With a layer or a network of yours in the case it may be that one's. Other cases of the target are not
affected: each goes on in a new process. A result that is damaged or gone is nobody's crash: `--resume` plays it again.

What to do: rerun the one case with `--isolate cell`; if it stays, the kit of `bncheck repro` is the bug report. Old
builds die of an empty batch (SIGFPE) or of instructions that this processor does not have (SIGILL).
"""

from collections.abc import Iterator

from bncheck.diagnosis.rules.refused import own_name
from bncheck.diagnosis.rules.wording import names, targets, verb
from bncheck.evidence import DAMAGED, CellView
from bncheck.finding import Finding

CODE = "BN502"
CAUSE = "crash"
EXPLAINS = ("events",)


def check_cell(cell: CellView) -> Iterator[Finding]:
    if cell.outcome not in ("crashed", "timeout") or cell.error_type in DAMAGED:
        return
    ends = verb(cell.members, "dies", "die") if cell.outcome == "crashed" else verb(cell.members, "hangs", "hang")
    op = cell.case.events[cell.event].op if cell.event is not None and 0 <= cell.event < len(cell.case.events) else ""
    why = f": {cell.error_type}" if cell.error_type else ""
    # A process says nothing of whose code it died in: with a layer of the user's in it nobody is blamed.
    own = own_name(cell)
    within = f" with {own} in it" if own else ""
    yield Finding(
        code=CODE,
        cause=CAUSE,
        kind="hazard" if own else "defect",
        title=f"{names(cell.members)} {ends} in {op or 'this case'}{within}{why}.",
        targets=targets(cell.members),
        scenario=cell.case.scenario,
        case=cell.case.name,
        event=cell.event,
        departs="" if own else cell.target,
        departs_from="" if own else "itself",
        evidence={"error": cell.error},
        advice="rerun with --isolate cell; if it stays, report it with bncheck repro",
    )
