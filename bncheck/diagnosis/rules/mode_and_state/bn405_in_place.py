"""A layer changes in place what autograd has kept for a backward.

Signature: backward raises "modified by an inplace operation", with the version of the tensor that it found and the one
that it expected. With one forward before each backward the change comes after the last use and nothing is seen; two
forwards before one backward (a discriminator on real and on generated data, shared weights) bring it out.

What to do: do not let the graph read what the next forward overwrites. Use a number or a detached clone in the
computation, and update the buffer under torch.no_grad() with a new tensor instead of lerp_, add_ or fill_.
"""

from collections.abc import Iterator

from bncheck.diagnosis.rules.autograd import IN_PLACE, errors, split_line
from bncheck.diagnosis.rules.wording import names, targets
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.scenario import RECORDING

CODE = "BN405"
CAUSE = "in-place"
EXPLAINS = ("events",)
ADVICE = "compute with a number or a detached clone of the buffer, and give the buffer a new tensor in each update"


def check_cell(cell: CellView) -> Iterator[Finding]:
    for event, message in errors(cell, IN_PLACE):
        count = forwards_before(cell, event)
        seen = f"{count} forwards before it" if count != 1 else "one forward before it"
        line = split_line(message).get("line", "")
        at = f" (kept at {line})" if line else ""
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="defect",
            title=f"In {names(cell.members)} something that a backward needs was changed in place after it was kept; "
            f"the backward with {seen} raises{at}.",
            targets=targets(cell.members),
            scenario=cell.case.scenario,
            case=cell.case.name,
            layer=own_layer(cell),
            event=event,
            departs=cell.target,
            departs_from="itself",
            evidence={"forwards before this backward": count, **split_line(message)},
            advice=ADVICE,
        )
        return


def forwards_before(cell: CellView, event: int) -> int:
    """Training forwards since the last backward."""
    count = 0
    for before in reversed(cell.case.events[:event]):
        if before.op == "backward":
            break
        count += before.op in RECORDING
    return count


def own_layer(cell: CellView) -> str:
    """With one BatchNorm layer of the user's own there is no doubt whose buffer it is."""
    norms = cell.case.network.batch_norms
    return norms[0] if cell.case.network.custom and len(norms) == 1 else ""
