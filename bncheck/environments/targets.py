"""Targets: ``backend[variant]==version@device``, all but the backend optional."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from bncheck.environments.backend_file import BackendFile
from bncheck.errors import TargetError, nearest
from bncheck.scenario import TARGET_NAME

DEFAULT_TARGETS = ("reference", "torch", "mxnet")
MOST_LETTERS = 200  # of a name; its version becomes a number
PLAIN_VARIANT = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Target:
    """One way to run BatchNorm. ``version`` is empty if none was asked for: what is here, or the default."""

    backend: str
    variant: str = ""
    version: str = ""
    device: str = "cpu"
    default_device: str = "cpu"

    @property
    def name(self) -> str:
        """The canonical spelling: what is default is left out, so ``torch@cpu`` is called ``torch``."""
        variant = f"[{self.variant}]" if self.variant else ""
        version = f"=={self.version}" if self.version else ""
        device = f"@{self.device}" if self.device != self.default_device else ""
        return f"{self.backend}{variant}{version}{device}"

    @property
    def slug(self) -> str:
        """A folder name for this target, different for different targets on every file system."""
        variant = re.sub(r"[^a-z0-9_.]+", "-", self.variant.lower()).strip("-.")[:40]
        device = "" if self.device == self.default_device else self.device.replace(":", "")
        parts = [part for part in (self.backend, variant, self.version.replace("+", "-"), device) if part]
        # A variant that lost characters gets a hash, so that two variants never share a folder.
        if self.variant and (not PLAIN_VARIANT.fullmatch(self.variant) or len(self.variant) > 40):
            parts.append(hashlib.sha256(self.variant.encode()).hexdigest()[:8])
        return "-".join(parts)

    def __str__(self) -> str:
        return self.name


def parse_target(text: str, backends: Mapping[str, BackendFile]) -> Target:
    """Understand one target's name; TargetError says what exists and which spelling is nearest."""
    match = TARGET_NAME.fullmatch(text.strip()) if len(text) <= MOST_LETTERS else None
    if match is None:
        raise TargetError(
            f"cannot read the target {text[:MOST_LETTERS]!r}",
            "write backend[variant]==version@device, where all but the backend may be left out, "
            "for example torch==2.13.0@cpu",
        )
    backend = _backend(match["backend"], backends)
    device = _device(text, match["device"], backend)
    return Target(
        backend=backend.name,
        variant=_variant(text, match["variant"], backend),
        version=_version(text, match["version"], backend, device),
        device=device,
        default_device=backend.devices[0],
    )


def parse_targets(texts: Iterable[str], backends: Mapping[str, BackendFile]) -> tuple[Target, ...]:
    """Understand several names; a target named twice (``torch`` and ``torch@cpu``) is kept once, in order."""
    return tuple(dict.fromkeys(parse_target(text, backends) for text in texts))


def _backend(word: str, backends: Mapping[str, BackendFile]) -> BackendFile:
    if word in backends:
        return backends[word]
    # People write the framework's own name; point at ours.
    titles = {backend.title.lower(): name for name, backend in backends.items()}
    titles |= {backend.distribution.lower(): name for name, backend in backends.items() if backend.distribution}
    guess = titles.get(word.lower()) or nearest(word, backends)
    raise TargetError(f"there is no backend {word!r}{did_you_mean(guess)}", f"backends: {', '.join(sorted(backends))}")


def _variant(text: str, word: str | None, backend: BackendFile) -> str:
    named = [variant for variant in backend.variants if variant != "*"]
    if word is None or not word.strip():
        return "" if "" in named or backend.free_variants or not named else named[0]
    word = re.sub(r"\s*([,=])\s*", r"\1", word.strip())
    if word in named or backend.free_variants:
        return word
    known = ", ".join(f"{backend.name}[{variant}]" for variant in named if variant)
    raise TargetError(
        f"{text}: {backend.title} has no variant {word!r}{did_you_mean(nearest(word, named))}",
        f"variants: {known}" if known else f"{backend.name} has no variants: write {backend.name}",
    )


def _version(text: str, word: str | None, backend: BackendFile, device: str) -> str:
    if word is None:
        return ""
    if not backend.distribution:
        raise TargetError(f"{text}: {backend.title} has no versions", f"write {backend.name} without =={word}")
    try:
        version = str(Version(word))
    except InvalidVersion as error:
        raise TargetError(
            f"{text}: {word!r} is not a version",
            f"write one exact version, for example {backend.name}==1.2.3",
        ) from error
    if backend.row_for(version, device) is None:
        rows = [row for row in backend.requirements if not row.devices or device.partition(":")[0] in row.devices]
        ranges = " or ".join(str(row.versions) for row in rows) or "none"
        raise TargetError(f"{text}: {backend.title} {version} is not supported", f"supported versions: {ranges}")
    return version


def _device(text: str, word: str | None, backend: BackendFile) -> str:
    if word is None:
        return backend.devices[0]
    if word in backend.devices:  # also a second CPU device, where a framework makes several of one CPU
        return word
    kind, _, index = word.partition(":")
    if kind in backend.devices and (not index or (index.isdigit() and kind != "cpu")):
        # cuda:0 is cuda: one target must not be run twice under two names.
        return f"{kind}:{int(index)}" if index and int(index) else kind
    # What people call an NVIDIA card is spelt unlike it: by its letters "gpu" is nearer to xpu than to cuda.
    known = "cuda" if kind == "gpu" and "cuda" in backend.devices else nearest(word, backend.devices)
    guess = did_you_mean(known)
    raise TargetError(
        f"{text}: {backend.title} has no device {word!r}{guess}", f"devices: {', '.join(backend.devices)}"
    )


def did_you_mean(guess: str) -> str:
    """The half-sentence that offers ``guess``."""
    return f" (did you mean {guess}?)" if guess else ""
