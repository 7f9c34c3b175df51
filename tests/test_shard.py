"""--shard i/N: the split, and what is in every part."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.errors import UsageError
from bncheck.playing.shard import Shard, durations, parse_shard, split, take
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.plan import Plan
from bncheck.scenario_files.shipped import resolve_scenario


def plan() -> Plan:
    names = ("all-ones", "batch-sizes", "probe")
    return Plan(tuple(load_scenario(resolve_scenario(name)) for name in names), ("reference",), ("probe",))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5", "1/99999"])
def test_what_is_no_part_is_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="is not a part of a whole"):
        parse_shard(text)


def test_i_of_n() -> None:
    assert parse_shard(" 2/3 ") == Shard(2, 3)


def test_without_durations_the_parts_have_equal_numbers() -> None:
    assert split(dict.fromkeys("edcba", 1.0), 2) == [["a", "c", "e"], ["b", "d"]]
    assert split(dict.fromkeys("abc", 0.0), 2) == [["a", "c"], ["b"]]


def test_the_longest_goes_first_to_the_part_with_least() -> None:
    assert split({"a": 7.0, "b": 4.0, "c": 3.0, "d": 1.0}, 2) == [["a", "d"], ["b", "c"]]


@given(st.dictionaries(st.text(min_size=1, max_size=6), st.floats(0, 100), max_size=40), st.integers(1, 7))
def test_every_case_is_in_one_part_and_no_part_is_far_above_the_others(seconds: dict[str, float], of: int) -> None:
    parts = split(seconds, of)
    assert sorted(name for part in parts for name in part) == sorted(seconds)
    sums = [sum(seconds[name] for name in part) for part in parts]
    best = max([sum(seconds.values()) / of, *seconds.values()])
    assert max(sums) <= 4 / 3 * best + 1e-6 or max(sums) <= best + max(seconds.values())


def test_a_part_keeps_the_order_of_scenarios_and_all_probes() -> None:
    whole = plan()
    parts = [take(whole, Shard(index, 2)) for index in (1, 2)]
    ids = [{case.id for case in part.cases if case.scenario != "probe"} for part in parts]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {case.id for case in whole.cases if case.scenario != "probe"}
    for part in parts:
        assert [scenario.name for scenario in part.scenarios] == ["all-ones", "batch-sizes", "probe"]
        assert part.scenarios[2] == whole.scenarios[2]
    assert parts[0].part["whole"] == parts[1].part["whole"]
    assert take(whole, Shard(1, 3)).part["whole"] != parts[0].part["whole"]


def test_recorded_durations_balance_the_parts() -> None:
    seconds = {"all-ones--forward": 100.0, "all-ones--forward-backward": 1.0}
    first = take(plan(), Shard(1, 2, seconds))
    assert [case.id for case in first.cases if case.scenario == "all-ones"] == ["all-ones--forward"]
    alone = [case.id for case in first.cases if case.scenario != "probe"]
    assert alone.count("all-ones--forward") == 1


def test_durations_are_summed_over_targets() -> None:
    assert durations([("a", 1.0), ("a", 2.0), ("b", 0.0)]) == {"a": 3.0}


def test_the_split_depends_on_the_scenario_text(tmp_path: Path) -> None:
    other = tmp_path / "all-ones.toml"
    other.write_text(Path(resolve_scenario("all-ones")).read_text(encoding="utf-8") + "\n# changed\n")
    plans = [Plan((load_scenario(path),), ("reference",)) for path in (resolve_scenario("all-ones"), other)]
    wholes = [take(plan, Shard(1, 2)).part["whole"] for plan in plans]
    assert wholes[0] != wholes[1]
