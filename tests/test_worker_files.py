"""The worker's own reading and writing of archives, against NumPy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bncheck.worker.archive import read_npz, write_npz
from bncheck.worker.recorder import moments, sample

KINDS = st.sampled_from(["float32", "float64", "float16", "int64", "int8"])
ARRAYS = KINDS.flatmap(
    lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


@given(st.dictionaries(st.text("abcxyz/_0", min_size=1, max_size=12), ARRAYS, max_size=5))
def test_what_is_written_is_read_back_by_both(
    tmp_path_factory: pytest.TempPathFactory, found: dict[str, np.ndarray]
) -> None:
    path = str(tmp_path_factory.mktemp("npz") / "a.npz")
    write_npz(path, found)
    with np.load(path, allow_pickle=False) as archive:
        theirs = {name: archive[name] for name in archive.files}
    for read in (theirs, read_npz(path)):
        assert set(read) == set(found)
        for name, array in found.items():
            assert read[name].dtype == array.dtype
            assert read[name].shape == array.shape
            assert read[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_others_are_read_too(tmp_path: Path, save: object) -> None:
    path = tmp_path / "a.npz"
    save(path, **{"x/main": np.arange(6.0).reshape(2, 3)})  # type: ignore[operator]
    assert read_npz(str(path))["x/main"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_equal_arrays_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_npz(str(tmp_path / name), {"x": np.ones(3)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_sample_is_spread_over_every_channel() -> None:
    """24 elements, at most 8: every third would always meet the same of 3 channels, so the stride is 5."""
    assert sample(np.arange(24), 8).tolist() == [0, 5, 10, 15, 20]
    assert sample(np.arange(5), 8).tolist() == [0, 1, 2, 3, 4]


def test_the_mean_of_a_batch_with_inf_is_inf_as_frameworks_have_it():
    with np.errstate(invalid="ignore"):  # as a worker records
        mean, var, _ = moments(np.array([[1.0, np.inf], [1.0, 3.0], [np.nan, 1.0]]))
    assert mean[0] == np.inf and np.isnan(var[0])
    assert (mean[1], var[1]) == (2.0, 1.0)
    assert np.isnan(mean[2])
