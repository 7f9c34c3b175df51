"""NaN or Inf in one batch is remembered in the running statistics for ever.

Signature: the data of one batch held NaN or Inf, the running statistics of those channels are not finite from then on,
and eval on clean data is NaN in exactly these channels, however many clean batches follow. NaN in the data alone
passes with its batch; one value per channel (n = 1) hits all channels; cancellation spoils y as well. An existing ONNX
file may hold such a variance, or one below zero, from the start: then all targets give the same NaN.

What to do: check batches before they reach the layer. Once it happened no further training heals it: reset the running
statistics (mean 0, variance 1) and re-estimate them on clean data, or go back to an earlier checkpoint.
"""

from collections.abc import Iterator

from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.rules.onnx_files import file_name, no_variances
from bncheck.rules.poison import poisonings
from bncheck.rules.wording import names, number, targets

CODE = "BN301"
CAUSE = "poisoned-state"
EXPLAINS = ("statistics", "affine", "outputs", "gradients")


def check_cell(cell: CellView) -> Iterator[Finding]:
    yield from file_without_variance(cell)
    lost = {item.layer for item in no_variances(cell)}
    for item in (found for found in poisonings(cell) if found.layer not in lost):
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


def file_without_variance(cell: CellView) -> Iterator[Finding]:
    for item in no_variances(cell):
        yield Finding(
            CODE, CAUSE, "defect",
            f"{file_name(cell)} holds a running variance that cannot be one in {item.channels} of {item.of} channels "
            f"of {item.layer} ({', '.join(map(number, item.values))}): {item.bad} of {item.forwards} forwards on "
            f"{names(cell.members)} give NaN or Inf there.",
            targets(cell.members), cell.case.scenario, cell.case.name, item.layer, -1, "running_var",
            departs=cell.target, departs_from="arithmetic",
            evidence={"channels": item.channels, "forwards": item.forwards, "of them not finite": item.bad},
            advice="re-estimate the running statistics on clean data and export again; nothing heals the file",
        )  # fmt: skip
