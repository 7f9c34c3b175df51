"""Evaluation sees data that the running statistics do not describe, while training batches fit them.

Signature: the latest training batches agree with the running statistics within what they differ by among themselves,
and the evaluation's batches are several times as far away, all in the same direction. No layer before it is off. It is
not the average that is wrong: training and evaluation get different data. Usual reasons are another scaling (0 to 255
against 0 to 1, a forgotten Normalize), another order of channels, another resolution or crop, padding, or an
augmentation in training that moves the statistics.

What to do: send one sample through both input pipelines and compare the arrays. If the other data are meant (another
domain), estimate the statistics anew over them.
"""

from bncheck.diagnosis.lived.evaluation import Evaluation
from bncheck.diagnosis.lived.judged import Lived
from bncheck.diagnosis.rules.gaps import Reason, about_gap
from bncheck.diagnosis.rules.wording import number, percent
from bncheck.finding import Finding
from bncheck.life import Life

CODE = "BN412"
CAUSE = "data-shift"
EXPLAINS = ()


def check_life(life: Life) -> list[Finding]:
    return about_gap(life, CODE, CAUSE, other_data)


def other_data(life: Life, layer: Lived, ev: Evaluation) -> Reason:
    assert ev.gap is not None
    return Reason(
        says=(
            f"Its training batches lie within {number(round(ev.spread, 2))} of each other and agree with its running "
            f"statistics; the data of the evaluation lie {number(round(ev.left, 2))} away. That accounts for "
            f"{percent(ev.gap.share('shift'))} of it."
        ),
        advice="send one sample through the training pipeline and through the evaluation pipeline and compare the "
        "arrays: scaling, order of channels, resize and crop, padding",
        part="shift",
        mends=False,
        evidence={"spread of training batches": ev.spread, "samples evaluated": int(ev.samples)},
    )
