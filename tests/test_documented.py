"""What is documented beside what was measured: versions, variants, paths, agreement."""

from bncheck.convention import Convention, Facet
from bncheck.diagnosis.documented import compare_documented, documented_facets

ROWS = [
    {
        "versions": ">=2,<3",
        "variants": [""],
        "paths": ["4-D"],
        "link": "fused",
        "facets": {"variance_divisor": "n-1"},
    },
    {
        "versions": ">=2,<3",
        "variants": [""],
        "link": "two",
        "facets": {"variance_divisor": "n", "default_eps": 1e-3},
    },
    {"versions": ">=3", "link": "three", "facets": {"variance_divisor": "n"}},
]


def measured(**facets: Facet) -> Convention:
    return Convention("keras", "2-D", facets)


def test_the_first_row_that_speaks_of_version_variant_and_path_wins() -> None:
    assert documented_facets(ROWS, "2.12", "", "4-D")["variance_divisor"] == ("n-1", "fused")
    assert documented_facets(ROWS, "2.12", "", "2-D")["variance_divisor"] == ("n", "two")
    assert documented_facets(ROWS, "3.15.1+cpu", "jax", "4-D") == {"variance_divisor": ("n", "three")}
    assert documented_facets(ROWS, "1.15", "", "4-D") == {}


def test_agreement_and_disagreement_are_said() -> None:
    found = compare_documented(
        measured(variance_divisor=Facet("n-1"), default_eps=Facet(0.00100004)), ROWS, "2.12"
    ).facets
    assert (found["variance_divisor"].documented, found["variance_divisor"].agrees) == ("n", False)
    assert (found["default_eps"].agrees, found["default_eps"].link) == (True, "two")


def test_what_was_not_identified_contradicts_nobody() -> None:
    found = compare_documented(measured(variance_divisor=Facet(None, identifiable=False)), ROWS, "2.12").facets
    assert found["variance_divisor"].documented == "n"
    assert found["variance_divisor"].agrees is None


def test_what_is_not_documented_stays_open() -> None:
    assert compare_documented(measured(counter=Facet("none")), ROWS, "2.12").facets["counter"].agrees is None


def test_a_version_or_range_nobody_can_read_matches_nothing() -> None:
    assert documented_facets(ROWS, "unknown") == {}
    assert documented_facets([{"versions": "two", "facets": {"eps": 1}}], "2.0") == {}
