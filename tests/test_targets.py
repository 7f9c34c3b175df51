"""Target names: what is understood, how it is spelled canonically, and what a wrong one is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from bncheck.environments.backend_file import BackendFile, RequirementRow
from bncheck.environments.targets import Target, parse_target, parse_targets
from bncheck.errors import TargetError


def backend(
    name: str, title: str, variants: dict[str, str], devices: tuple[str, ...], versions: str = ""
) -> BackendFile:
    rows = (RequirementRow(SpecifierSet(versions), SpecifierSet(""), (f"{name}=={{version}}",)),)
    distribution = "" if name == "reference" else name
    return BackendFile(
        name, Path(name), title, name, distribution, "1.0", variants, devices, rows, {}, {}, ()
    )  # fmt: skip


BACKENDS = {
    "torch": backend("torch", "PyTorch", {"": "modules", "functional": "functions"}, ("cpu", "cuda"), "<3"),
    "keras": backend("keras", "Keras", {"tensorflow": "", "jax": ""}, ("cpu",)),
    "reference": backend("reference", "NumPy", {"": "", "*": "rules"}, ("cpu",)),
}


@pytest.mark.parametrize(
    ("text", "target", "name", "slug"),
    [
        ("torch", Target("torch"), "torch", "torch"),
        ("torch@cpu", Target("torch"), "torch", "torch"),
        (" torch==2.13.0 ", Target("torch", version="2.13.0"), "torch==2.13.0", "torch-2.13.0"),
        ("torch@cuda", Target("torch", device="cuda"), "torch@cuda", "torch-cuda"),
        ("torch@cuda:0", Target("torch", device="cuda"), "torch@cuda", "torch-cuda"),
        ("torch@cuda:1", Target("torch", device="cuda:1"), "torch@cuda:1", "torch-cuda1"),
        (
            "torch[functional]==1.7.0.post2@cuda",
            Target("torch", "functional", "1.7.0.post2", "cuda"),
            "torch[functional]==1.7.0.post2@cuda",
            "torch-functional-1.7.0.post2-cuda",
        ),
        ("keras", Target("keras", "tensorflow"), "keras[tensorflow]", "keras-tensorflow"),
        ("keras[jax]", Target("keras", "jax"), "keras[jax]", "keras-jax"),
        ("torch==2.13.0+cpu", Target("torch", version="2.13.0+cpu"), "torch==2.13.0+cpu", "torch-2.13.0-cpu"),
    ],
)
def test_names_are_understood_and_spelled_one_way(text: str, target: Target, name: str, slug: str) -> None:
    parsed = parse_target(text, BACKENDS)
    assert parsed == target
    assert (parsed.name, parsed.slug) == (name, slug)
    assert parse_target(parsed.name, BACKENDS) == parsed


def test_free_variants_may_hold_commas_and_equals_signs() -> None:
    target = parse_target("reference[update_on=backward, variance_divisor=n]", BACKENDS)
    assert target.variant == "update_on=backward,variance_divisor=n"
    assert target.name == "reference[update_on=backward,variance_divisor=n]"
    assert re.fullmatch(r"reference-update_on-backward-variance_divisor-n-[0-9a-f]{8}", target.slug)


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("troch", "no backend 'troch' (did you mean torch?)", "backends: keras, reference, torch"),
        ("PyTorch", "no backend 'PyTorch' (did you mean torch?)", "torch"),
        ("torch[functoinal]", "no variant 'functoinal' (did you mean functional?)", "torch[functional]"),
        ("torch@cdua", "no device 'cdua' (did you mean cuda?)", "cpu, cuda"),
        ("torch@cpu:1", "no device 'cpu:1'", "cpu, cuda"),
        ("torch@gpu", "no device 'gpu' (did you mean cuda?)", "cpu, cuda"),
        ("torch==latest", "'latest' is not a version", "torch==1.2.3"),
        ("torch==3.1", "PyTorch 3.1 is not supported", "<3"),
        ("torch>=2", "cannot read the target 'torch>=2'", "backend[variant]==version@device"),
        ("torch=2.0", "cannot read the target", "=="),
        ("../torch", "cannot read the target", "torch==2.13.0@cpu"),
        ("", "cannot read the target ''", "backend"),
        ("reference==1.0", "has no versions", "write reference without"),
    ],
)
def test_a_wrong_name_is_told_what_exists(text: str, message: str, remedy: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_target(text, BACKENDS)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_the_same_target_twice_is_one() -> None:
    assert [t.name for t in parse_targets(["torch@cpu", "keras[jax]", "torch"], BACKENDS)] == ["torch", "keras[jax]"]


@given(st.text(alphabet=st.characters(exclude_characters="[]\n", exclude_categories=("Cs",)), max_size=80))
def test_any_free_variant_makes_a_safe_folder_name(variant: str) -> None:
    try:
        target = parse_target(f"reference[{variant}]", BACKENDS)
    except TargetError:
        return
    assert re.fullmatch(r"[a-z0-9_.-]+", target.slug)
    assert target.slug.startswith("reference")
    assert parse_target(target.name, BACKENDS) == target


@given(
    st.lists(st.sampled_from("aB=,-_./\\: é"), max_size=6).map("".join),
    st.lists(st.sampled_from("aB=,-_./\\: é"), max_size=6).map("".join),
)
def test_different_targets_have_different_folders_on_any_file_system(first: str, second: str) -> None:
    one, two = (parse_target(f"reference[{variant}]", BACKENDS) for variant in (first, second))
    assert (one == two) == (one.slug.lower() == two.slug.lower())
