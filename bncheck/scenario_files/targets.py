"""The targets that a scenario file names: each must be one that could be run, or it would never apply, unseen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bncheck.environments.backend_file import BackendFile
from bncheck.environments.targets import parse_target
from bncheck.errors import TargetError
from bncheck.scenario_files.schema import ExpectTable, Fault
from bncheck.scenario_files.toml_lines import KeyPath


def target_rules(
    targets: Sequence[str], expects: Mapping[int, ExpectTable], backends: Mapping[str, BackendFile]
) -> Iterator[Fault]:
    """A fault for every word of ``targets`` and ``between`` that names no backend, variant, version or device."""
    places: list[tuple[KeyPath, str]] = [(("targets", number), word) for number, word in enumerate(targets)]
    for index, expect in expects.items():
        places += [(("expect", index, "between", number), word) for number, word in enumerate(expect.between)]
    for place, word in places:
        try:
            parse_target(word, backends)
        except TargetError as error:
            yield Fault(place, error.message, error.remedy)
