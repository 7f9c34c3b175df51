"""Gamma or beta is held but not applied.

Signature: the statistics are right and y is (x − mean)/std without the scale, or without the shift, that the layer
holds. MXNet's raw operator fixes gamma to one by default (fix_gamma), Keras has scale=False; both leave a parameter
that looks trained and has no effect.

What to do: switch the affine part on (fix_gamma=False, scale=True, center=True, affine=True), or leave the parameter
out when you port the weights.
"""

from collections.abc import Iterator

from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.rules.normaliser import affine_ignored, revealed
from bncheck.rules.wording import names, targets, verb

CODE = "BN113"
CAUSE = "affine"
EXPLAINS = ("outputs", "gradients")
ADVICE = "switch the affine part on (fix_gamma=False, scale=True, affine=True), or drop the parameter"
OWN = "return weight * y + bias, one value per channel, in training and in eval"


def check_cell(cell: CellView) -> Iterator[Finding]:
    said = set()
    for seen in revealed(cell):
        ignored = affine_ignored(seen)
        if not ignored or seen.layer in said:
            continue
        said.add(seen.layer)
        yield Finding(
            CODE, CAUSE, "defect",
            f"{names(cell.members)} {verb(cell.members, 'holds', 'hold')} {ignored} in {seen.layer} without applying "
            f"{'them' if ' and ' in ignored else 'it'} in {cell.case.events[seen.event].op} (event {seen.event + 1}).",
            targets(cell.members), cell.case.scenario, cell.case.name, seen.layer, seen.event, "output",
            departs=cell.target, departs_from="arithmetic", evidence={"ignored": ignored},
            advice=OWN if cell.own_layer else ADVICE,
        )  # fmt: skip
