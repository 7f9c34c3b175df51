"""NaN or Inf in one batch is remembered in the running statistics for ever.

Signature: the data of one batch held NaN or Inf, the running statistics of those channels are not finite from then on,
and eval on clean data is NaN in exactly these channels, however many clean batches follow. NaN in the data alone
passes with its batch; one value per channel (n = 1) hits all channels; cancellation spoils y as well.

What to do: check batches before they reach the layer. Once it happened no further training heals it: reset the running
statistics (mean 0, variance 1) and re-estimate them on clean data, or go back to an earlier checkpoint.
"""

from collections.abc import Iterator

from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.rules.poison import poisonings
from bncheck.rules.wording import names, targets

CODE = "BN301"
CAUSE = "poisoned-state"


def check_cell(cell: CellView) -> Iterator[Finding]:
    for item in poisonings(cell):
        if item.event >= 0 and not item.input_bad:
            continue
        what = "Inf" if item.infinite else "NaN"
        start = f"{item.quantity} of {item.layer} in {names(cell.members)} is {what} before any event"
        if item.event >= 0:
            values = "1 bad value" if item.input_bad == 1 else f"{item.input_bad} bad values"
            start = f"{item.quantity} of {item.layer} in {names(cell.members)} turns {what} by one batch with {values}"
        yield Finding(
            CODE, CAUSE, "hazard", f"{start} {item.aftermath}.",
            targets(cell.members), cell.case.scenario, cell.case.name, item.layer, item.event, item.quantity,
            evidence=item.evidence,
            advice="reset the running statistics and re-estimate them on clean data; no further training heals them",
        )  # fmt: skip
