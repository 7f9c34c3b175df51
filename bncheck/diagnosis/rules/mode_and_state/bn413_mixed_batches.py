"""Training batches of unlike kinds take turns, and the running statistics lie between them.

Signature: batch by batch, in turn, the layer's inputs are of two or more kinds that are far apart (real and generated,
labelled and unlabelled, one domain and another), each normalised with its own statistics in training. One average holds
them all: it fits none, and its variance misses what lies between them. In eval a batch of one kind is normalised with
statistics that are nobody's.

What to do: put the kinds into one batch (torch.cat before one forward), or give each kind BatchNorm layers of its own.
"""

from bncheck.diagnosis.lived.evaluation import Evaluation
from bncheck.diagnosis.lived.judged import Lived
from bncheck.diagnosis.rules.gaps import Reason, about_gap
from bncheck.diagnosis.rules.wording import percent
from bncheck.finding import Finding
from bncheck.life import Life

CODE = "BN413"
CAUSE = "mixed-batches"
EXPLAINS = ()


def check_life(life: Life) -> list[Finding]:
    return about_gap(life, CODE, CAUSE, between_kinds)


def between_kinds(life: Life, layer: Lived, ev: Evaluation) -> Reason:
    assert ev.gap is not None
    return Reason(
        says=(
            f"Its training batches are of unlike kinds in turn, and one running average lies between them; that "
            f"accounts for {percent(ev.gap.share('mixture'))} of it."
        ),
        advice="put the kinds into one batch (torch.cat before one forward), or give each kind BatchNorm layers of its "
        "own",
        part="mixture",
        mends=False,
    )
