"""Which targets of several runs are one, and what the others are called."""

from __future__ import annotations

from dataclasses import replace

from bncheck.joining.targets import Member, join_targets
from bncheck.run_folder.folder import check_slug
from bncheck.run_folder.results import TargetResult

REFERENCE = TargetResult("reference", "reference", "reference")
TORCH = TargetResult("torch", "torch", "torch", version="2.13.0")
CUDA = TargetResult("torch@cuda", "torch-cuda", "torch", version="2.13.0", device="cuda")
GONE = replace(CUDA, status="unavailable", version="", reason="no CUDA device")


def names(*runs: tuple[str, str, list[TargetResult]]) -> list[str]:
    return [target.name for target in join_targets(runs)[0]]


def test_different_names_stay_as_they_are_and_the_reference_is_one() -> None:
    targets, members = join_targets([("a", "", [REFERENCE, TORCH]), ("b", "", [REFERENCE, CUDA])])
    assert [target.name for target in targets] == ["reference", "torch", "torch@cuda"]
    assert members == (
        Member(0, "reference", "reference"), Member(1, "reference", "reference"),
        Member(0, "torch", "torch"), Member(1, "torch-cuda", "torch-cuda"),
    )  # fmt: skip


def test_one_name_in_two_versions_is_told_by_version() -> None:
    older = replace(TORCH, version="2.5.1")
    targets, members = join_targets([("a", "", [TORCH]), ("b", "", [older])])
    assert [target.name for target in targets] == ["torch==2.13.0", "torch==2.5.1"]
    assert members == (Member(0, "torch", "torch-2.13.0"), Member(1, "torch", "torch-2.5.1"))
    assert names(("a", "", [CUDA]), ("b", "", [replace(CUDA, version="2.5.1")]))[1] == "torch==2.5.1@cuda"


def test_one_name_in_one_version_is_told_by_the_run() -> None:
    targets, _ = join_targets([("laptop", "", [TORCH]), ("server", "", [TORCH])])
    assert [target.name for target in targets] == ["torch@cpu (laptop)", "torch@cpu (server)"]
    assert [target.slug for target in targets] == ["torch-cpu-laptop", "torch-cpu-server"]
    assert names(("a", "", [CUDA]), ("b", "", [CUDA])) == ["torch@cuda (a)", "torch@cuda (b)"]


def test_the_parts_of_one_run_are_one_target_in_one_version() -> None:
    assert names(("a", "whole", [TORCH]), ("b", "whole", [TORCH])) == ["torch"]
    assert names(("a", "whole", [TORCH]), ("b", "other", [TORCH])) == ["torch@cpu (a)", "torch@cpu (b)"]
    older = replace(TORCH, version="2.5.1")
    assert names(("a", "whole", [TORCH]), ("b", "whole", [older])) == ["torch==2.13.0", "torch==2.5.1"]


def test_one_that_could_not_run_gives_way_to_one_that_did() -> None:
    targets, members = join_targets([("cpu", "", [TORCH, GONE]), ("gpu", "", [CUDA])])
    assert targets == (TORCH, CUDA)
    assert Member(1, "torch-cuda", "torch-cuda") in members
    assert join_targets([("a", "", [GONE]), ("b", "", [GONE])])[0] == (GONE,)


def test_hostile_labels_make_folder_names_that_are_safe_and_different() -> None:
    targets, _ = join_targets([("../../x", "", [TORCH]), ("..-..-x", "", [TORCH]), ("ä/ö", "", [TORCH])])
    slugs = [target.slug for target in targets]
    assert len({slug.lower() for slug in slugs}) == 3
    assert [check_slug(slug) for slug in slugs] == slugs


def test_a_name_that_is_made_may_be_taken_already() -> None:
    taken = replace(TORCH, name="torch==2.5.1", slug="torch-2.5.1", version="2.5.1")
    older = replace(TORCH, version="2.5.1")
    found, _ = join_targets([("a", "", [TORCH, taken]), ("b", "", [older])])
    assert len({target.name for target in found}) == 3
    assert len({target.slug for target in found}) == 3
