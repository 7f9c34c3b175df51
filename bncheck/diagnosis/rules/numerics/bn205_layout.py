"""The same layer of one target follows other rules in another layout.

Signature: measured conventions differ between layer paths (2-D, 4-D channels first, channels last) of one target, at
equal values. TensorFlow's fused 4-D kernel averages the unbiased variance, its 2-D path the biased one.

What to do: choose one path on purpose (fused=False, contiguous memory format), and do not compare statistics across.
"""

from collections.abc import Iterator
from itertools import combinations

from bncheck.convention import FACETS
from bncheck.diagnosis.rules.departure import same
from bncheck.diagnosis.rules.wording import number
from bncheck.evidence import TargetView
from bncheck.finding import Finding

CODE = "BN205"
CAUSE = "layout"
EXPLAINS = ()
NEEDS_CONVENTIONS = True


def check_target(target: TargetView) -> Iterator[Finding]:
    """One finding per facet that differs between two paths, both measured."""
    for facet in FACETS:
        known = [
            (path, value) for path, found in target.conventions.items() if (value := found.value(facet)) is not None
        ]
        odd = next(((one, two) for one, two in combinations(known, 2) if not same(one[1], two[1])), None)
        if odd is None:
            continue
        (path, value), (other, second) = odd
        yield Finding(
            code=CODE,
            cause=CAUSE,
            kind="defect",
            title=f"{target.target} has {facet.replace('_', ' ')} {number(value)} on {path or 'its default path'} and "
            f"{number(second)} on {other or 'its default path'}.",
            targets=(target.target,),
            scenario="",
            case="",
            departs=target.target,
            departs_from="itself",
            evidence={path or "default": value, other or "default": second},
            advice="choose one kernel path on purpose; do not compare or share statistics across paths",
            link=target.link,
        )
