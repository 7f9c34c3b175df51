"""What a layer of one's own is given in PyTorch, its arguments and its first values; what is said where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from torch_cells import Cell, cases_of, play_cells, renamed

LAYERS = """
import torch
from torch import nn

class Fine(nn.BatchNorm2d):
    pass

class NoAffine(nn.BatchNorm2d):
    def __init__(self, num_features, momentum=0.01, epsilon=1e-5):
        super().__init__(num_features, momentum=momentum, eps=epsilon)

class Bare(nn.BatchNorm2d):
    def __init__(self, num_features):
        super().__init__(num_features)

class Word(nn.BatchNorm2d):
    def __init__(self, *, size):
        super().__init__(size)

class Wide(nn.Module):
    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=True):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=eps, momentum=momentum, affine=False)
        self.weight, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1, channels, 1, 1))
    def forward(self, x):
        return self.norm(x) * self.weight + self.bias
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    (case,) = cases_of("custom-layer").values()
    path = tmp_path_factory.mktemp("layers") / "layers.py"
    path.write_text(LAYERS, encoding="utf-8")
    names = ["Fine", "NoAffine", "Bare", "Word", "Wide"]
    return play_cells(tmp_path_factory.mktemp("run"), [renamed(case, name, custom=f"{path}:{name}") for name in names])


def remarks(cell: Cell) -> list[str]:
    found: list[str] = cell.result.notes["cell"]["custom"]["bn"]["remarks"]
    return found


def test_a_constructor_gets_what_it_takes_and_the_rest_is_said(own: dict[str, Cell]) -> None:
    fine, less = own["Fine"].arrays, own["NoAffine"].arrays
    assert remarks(own["Fine"]) == []
    assert remarks(own["NoAffine"]) == ["NoAffine takes no affine; it was left out, and affine=True is what it does"]
    np.testing.assert_array_equal(less["bn/running_var"], fine["bn/running_var"])
    assert remarks(own["Bare"])[1:] == [
        "Bare takes no eps: the scenario asks for eps=0.001, it has 1e-05",
        "Bare takes no momentum: the scenario asks for momentum=0.3, it has 0.1",
    ]
    assert own["Word"].result.outcome == "ok", own["Word"].errors


def test_parameters_of_another_shape_are_one_number_per_channel(own: dict[str, Cell]) -> None:
    cell = own["Wide"]
    assert cell.result.outcome == "ok", cell.errors
    assert cell.arrays["bn/gamma"].shape == cell.arrays["bn/beta"].shape == (14, 4)
    gamma, beta = (own["Fine"].arrays[f"bn/{name}"][0].reshape(1, 4, 1, 1) for name in ("gamma", "beta"))
    plain = (own["Fine"].arrays["output/0"] - beta) / gamma
    np.testing.assert_allclose(cell.arrays["output/0"], plain + beta, atol=1e-5)  # its one weight stays 1
    assert remarks(cell) == ["Wide holds gamma in the shape (1,): it keeps its own values, not the scenario's 4"]
