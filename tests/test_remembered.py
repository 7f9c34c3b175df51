"""Shipped scenarios as an earlier run has read them: the same, or read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from bncheck.scenario_files import remembered
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.remembered import read_kept, read_remembered
from bncheck.scenario_files.shipped import find_scenarios, find_with


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BNCHECK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scenarios"


def test_every_shipped_scenario_comes_back_as_it_is_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = find_scenarios()
    loaded = [load_scenario(path) for path in paths]
    assert repr(read_remembered(paths)) == repr(loaded)
    kept = [read_kept(cache, path) for path in paths]
    assert sum(each is not None for each in kept) > 40
    assert all(each is None or repr(each) == repr(other) for each, other in zip(kept, loaded, strict=True))
    beside = {path.stem for path, each in zip(paths, kept, strict=True) if each is None}
    assert {"custom-layer", "fine-tuning", "onnx-file"} & beside, "what names files of its own is read every time"
    monkeypatch.setattr("bncheck.scenario_files.files.load_scenario", lambda path: pytest.fail(f"read {path} again"))
    (path,) = (path for path in paths if path.stem == "all-ones")
    assert read_remembered([path])[0].name == "all-ones"


def test_what_is_damaged_or_of_another_text_is_read_again(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = next(each for each in find_scenarios() if each.stem == "all-ones").read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    read_remembered([path])
    (file,) = cache.iterdir()
    assert read_kept(cache, path) is not None
    sound = file.read_text(encoding="utf-8")
    for damaged in (sound.replace('"value": 1.0', '"value": 2.0'), sound[:-2], "", "[]\n[]", "0\n" + "[" * 100_000):
        assert damaged != sound
        file.write_text(damaged, encoding="utf-8")
        assert read_kept(cache, path) is None
        assert read_remembered([path])[0] == load_scenario(path)
    path.write_text(text.replace("[8, 3,", "[4, 3,"), encoding="utf-8")
    assert read_kept(cache, path) is None
    assert read_remembered([path])[0].cases[0].inputs["main"].shape == (4, 3, 32, 32)


def test_few_are_kept_of_a_name(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = next(each for each in find_scenarios() if each.stem == "all-ones").read_text(encoding="utf-8")
    for count in range(1, remembered.MOST_KEPT + 3):
        path.write_text(text.replace("[8, 3,", f"[{count}, 3,"), encoding="utf-8")
        read_remembered([path])
    assert len(list(cache.iterdir())) == remembered.MOST_KEPT


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(cache: Path, tmp_path: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file", encoding="utf-8")
    assert [each.name for each in read_remembered(find_with("default"))][:1] == ["all-ones"]


def test_only_what_may_be_meant_is_read() -> None:
    loaded = {path: load_scenario(path) for path in find_scenarios()}
    assert find_with("probe") == [path for path, each in loaded.items() if each.probe]
    assert find_with("default") == [path for path, each in loaded.items() if each.default]
    assert find_with("default", "probe") == [path for path, each in loaded.items() if each.default or each.probe]
