"""The variance that a training forward divides by has another divisor.

Signature: in training y of one side is sqrt(n/(n − 1)) times that of the other, in every channel and step: 1.016 at 32
values, 1.0002 at 2,304. One divides by the sample variance (n − 1), the other by the variance of the batch (n), as the
paper does (Ioffe & Szegedy 2015, algorithm 1). The running statistics and eval may agree: what is averaged has a
divisor of its own, see variance-divisor.

What to do: take the biased variance to normalise with (torch: x.var(unbiased=False)), and the unbiased one for the
running average only.
"""

from collections.abc import Iterator

import numpy as np

from bncheck.diagnosis.lived.departures import Departure
from bncheck.diagnosis.rules.departing import about_departures
from bncheck.diagnosis.rules.dissected import departing
from bncheck.diagnosis.rules.revealed import read_layer
from bncheck.diagnosis.rules.wording import names, number, targets, verb
from bncheck.evidence import CellView, PairView
from bncheck.finding import Finding
from bncheck.life import Life

CODE = "BN119"
CAUSE = "normaliser-divisor"
EXPLAINS = ("outputs", "gradients")
# A revealed variance lies this near to one of the two, in units of the step between them; and the step is this many
# times what rounding hides.
NEAR, CLEAR = 0.05, 4.0


def check_pair(pair: PairView) -> Iterator[Finding]:
    found = list(seen_in_outputs(pair))
    yield from found or departing(pair, CODE, CAUSE)


def seen_in_outputs(pair: PairView) -> Iterator[Finding]:
    output = pair.drift("", "output")
    for layer in pair.case.network.batch_norms if output is not None and output.relation == "differs" else ():
        found = [divisor_of(cell, layer) for cell in (pair.a, pair.b)]
        known = {side[0] for side in found if side is not None}
        if known != {"n", "n-1"} or found[0] is None or found[1] is None:
            continue
        sample, batch = (pair.a, pair.b) if found[0][0] == "n-1" else (pair.b, pair.a)
        divisor, count = "n-1", found[0][1]
        ratio = float(np.sqrt(count / (count - 1.0)))
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="convention",
            title=(
                f"In training {names(sample.members)} {verb(sample.members, 'divides', 'divide')} by the deviation of "
                f"n - 1, {names(batch.members)} by that of n: with {number(count)} values per channel y is "
                f"{ratio:.6g} times as large on {names(batch.members)}."
            ),
            targets=targets(pair.a.members, pair.b.members),
            scenario=pair.case.scenario,
            case=pair.case.name,
            layer=layer,
            event=found[0][2],
            quantity="output",
            evidence={f"divisor of {sample.target}": divisor, f"divisor of {batch.target}": "n", "ratio of y": ratio},
            advice="normalise with the biased variance, as the paper does: x.var(unbiased=False); the unbiased one is "
            "for the running average",
        )


def divisor_of(cell: CellView, layer: str) -> tuple[str, float, int] | None:
    """(n or n-1, values per channel, event) of the variance that training forwards divide by; None where outputs do not
    tell."""
    counts = cell.trace.get(layer, "n") if cell.trace is not None else None
    table = read_layer(cell, layer)
    if table is None or counts is None:
        return None
    facts, n = table.facts, np.asarray(counts, dtype=np.float64)[:, None]
    rows = table.kept & table.training[:, None] & (n > 1)
    step = facts["batch_var"] / np.maximum(n - 1.0, 1.0)
    clear = rows & (step > CLEAR * facts["var_error"])
    if not clear.any() or not clear[rows.any(axis=1)].any(axis=1).all():
        return None
    after = np.abs(facts["var"] - facts["after_var"]) <= CLEAR * facts["var_error"]
    if table.tracked and after[clear].all():
        return None  # a first batch that its average takes over as it is: which of the two divides is not seen
    above = (facts["var"] - facts["batch_var"])[clear] / step[clear]
    event = int(np.argmax(clear.any(axis=1)))
    if (np.abs(above - 1.0) <= NEAR).all():
        return "n-1", float(n[event, 0]), event
    return ("n", float(n[event, 0]), event) if (np.abs(above) <= NEAR).all() else None


def check_life(life: Life) -> list[Finding]:
    return about_departures(life, CODE, CAUSE, by_sample_deviation)


def by_sample_deviation(found: Departure) -> tuple[str, str]:
    record = found.layer.record
    n = float(record.n[record.training][0])
    return (
        f"In training {{who}} divide{{s}} by the deviation of n - 1: with {number(n)} values per channel y is "
        f"{(n / (n - 1)) ** -0.5:.6g} times what BatchNorm gives.",
        "normalise with the biased variance: x.var(unbiased=False); the unbiased one is for the running average",
    )
