"""Which targets of several runs are one, and how the others are told apart. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bncheck.run_folder.results import TargetResult
from bncheck.scenario import TARGET_NAME


@dataclass(frozen=True)
class Member:
    """Cells of folder ``slug`` of run number ``source`` go to folder ``new_slug``."""

    source: int
    slug: str
    new_slug: str


@dataclass(frozen=True)
class Group:
    """A target of the comparison: what one run, or several that count as one, call by the same name."""

    target: TargetResult
    label: str  # of the first run
    whole: str
    sources: tuple[int, ...]
    slugs: tuple[str, ...]


def join_targets(
    runs: Sequence[tuple[str, str, Sequence[TargetResult]]],
) -> tuple[tuple[TargetResult, ...], tuple[Member, ...]]:
    """``runs`` are (label, whole of which it is a shard or "", targets); returns targets and their cells' origins."""
    found = [
        group
        for name in dict.fromkeys(target.name for _, _, targets in runs for target in targets)
        for group in distinguish(groups_of(name, runs))
    ]
    unique: list[Group] = []
    for group in found:
        unique.append(with_free_name(group, unique))
    members = [
        Member(source, slug, group.target.slug)
        for group in unique
        for source, slug in zip(group.sources, group.slugs, strict=True)
    ]
    return tuple(group.target for group in unique), tuple(members)


def groups_of(name: str, runs: Sequence[tuple[str, str, Sequence[TargetResult]]]) -> list[Group]:
    """Targets of one name, those that count as one put together. One that could not run gives way to one that did."""
    here = [
        (number, label, whole, target)
        for number, (label, whole, targets) in enumerate(runs)
        for target in targets
        if target.name == name
    ]
    ran = [item for item in here if item[3].status == "ok"] or here[:1]
    groups: list[Group] = []
    for number, label, whole, target in ran:
        for place, group in enumerate(groups):
            if one_and_the_same(group, target, whole):
                groups[place] = replace(group, sources=(*group.sources, number), slugs=(*group.slugs, target.slug))
                break
        else:
            groups.append(Group(target, label, whole, (number,), (target.slug,)))
    return groups


def one_and_the_same(group: Group, target: TargetResult, whole: str) -> bool:
    """The reference is one oracle; parts of one run are one target as long as the same version played them."""
    if target.backend == "reference":
        return True
    same = (target.version, target.device) == (group.target.version, group.target.device)
    return bool(whole) and whole == group.whole and same


def distinguish(groups: list[Group]) -> list[Group]:
    """Names of their own for groups that share one: by version where those differ, else by the run."""
    if len(groups) == 1:
        return groups
    versions = [group.target.version for group in groups]
    by_version = all(versions) and len(set(versions)) == len(versions)
    return [named(group, with_version(group.target)) if by_version else by_run(group) for group in groups]


def with_version(target: TargetResult) -> str:
    """``torch@cuda`` of version 2.13.0 → ``torch==2.13.0@cuda``."""
    match = TARGET_NAME.fullmatch(target.name)
    if match is None:
        return f"{target.name} {target.version}"
    variant = f"[{match['variant']}]" if match["variant"] else ""
    device = f"@{match['device']}" if match["device"] else ""
    return f"{match['backend']}{variant}=={target.version}{device}"


def by_run(group: Group) -> Group:
    target = group.target
    device = "" if "@" in target.name else f"@{target.device}"
    return named(group, f"{target.name}{device} ({group.label})")


def named(group: Group, name: str) -> Group:
    extra = name.removeprefix(group.target.name).replace("==", "")
    word = re.sub(r"[^A-Za-z0-9_.]+", "-", extra or name).strip("-.")[:60]
    slug = f"{group.target.slug}-{word}"[:180]
    return replace(group, target=replace(group.target, name=name, slug=slug))


def with_free_name(group: Group, taken: Sequence[Group]) -> Group:
    """A name and a folder that no other target has; runs may call theirs what we call another."""
    names = {other.target.name for other in taken}
    slugs = {other.target.slug.lower() for other in taken}  # some file systems do not tell case
    target, number = group.target, 2
    name, slug = target.name, target.slug
    while name in names or slug.lower() in slugs:
        if target.name in names:
            name = f"{target.name} ({group.label})" if number == 2 else f"{target.name} ({group.label} {number})"
        slug, number = f"{target.slug}-{number}", number + 1
    return replace(group, target=replace(target, name=name, slug=slug))
