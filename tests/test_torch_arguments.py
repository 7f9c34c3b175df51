"""What a layer of one's own is given in PyTorch, its arguments and its first values; what is said where it is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch_cells import Cell, cases_of, play_cells, renamed

from bncheck.scenario import Case

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

class Renamed(nn.Module):
    def __init__(self, channels, eps=1e-5, momentum=0.1, affine=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
    def forward(self, x):
        return nn.functional.batch_norm(
            x, self.stored_mean, self.stored_var, self.scale, self.shift, self.training, self.momentum, self.eps)

class Plain(Renamed):
    def __init__(self, *a, **k):
        super().__init__(*a, **k)
        del self.stored_mean, self.stored_var
        self.stored_mean, self.stored_var = torch.zeros(4), torch.ones(4)

class Handed(Renamed):
    weight, bias = property(lambda self: self.scale), property(lambda self: self.shift)
    running_mean, running_var = property(lambda self: self.stored_mean), property(lambda self: self.stored_var)

class Drawn(Renamed):
    def __init__(self, *a, **k):
        super().__init__(*a, **k)
        nn.init.constant_(self.scale, 0.25)

class Derived(Handed):
    running_var = property(lambda self: self.stored_var - 0 * self.stored_mean**2)

class Stateless(nn.Module):
    def __init__(self, channels):
        super().__init__()
    def forward(self, x):
        return nn.functional.batch_norm(x, None, None, training=True)

class Flag(nn.BatchNorm2d):
    def __init__(self, channels, eps, momentum):
        super().__init__(channels, eps, momentum)
        self.beta = self.bias
        del self.bias
        self.bias = True
    def forward(self, x):
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.beta, self.training, self.momentum, self.eps)

class Lazy(nn.LazyBatchNorm2d):
    pass

class NoArguments(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LazyBatchNorm2d(eps=1e-3, momentum=0.3)
    def forward(self, x):
        return self.norm(x)

class Shapeless(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.parameter.UninitializedParameter()
    def forward(self, x):
        raise ValueError("not before the data is there")

class FixedEps(Stateless):
    def __init__(self, channels):
        super().__init__(channels)
        self.eps = 1e-3

class TensorEps(Stateless):
    def __init__(self, channels):
        super().__init__(channels)
        self.eps = torch.tensor(1e-3)

class OtherEps(Stateless):
    def __init__(self, channels):
        super().__init__(channels)
        self.eps = 1e-5
"""
NAMES = (
    "Fine", "NoAffine", "Bare", "Word", "Wide", "Renamed", "Handed", "Derived", "Stateless", "Flag", "Lazy",
    "NoArguments", "Shapeless", "FixedEps", "TensorEps", "OtherEps",
)  # fmt: skip
MOVED = {"running_mean": (0.5, 1.0, -2.0, 0.0), "running_var": (2.0, 1.0, 0.5, 4.0)}
USUAL = {"gamma": 1.0, "beta": 0.0}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    (case,) = cases_of("custom-layer").values()
    path = tmp_path_factory.mktemp("layers") / "layers.py"
    path.write_text(LAYERS, encoding="utf-8")
    cases = [renamed(case, name, custom=f"{path}:{name}") for name in NAMES]
    started = [("Renamed", MOVED), ("Plain", MOVED), ("Handed", MOVED), ("Derived", MOVED), ("Fine", MOVED)]
    cases += [starting(renamed(case, f"{name}-moved", custom=f"{path}:{name}"), **values) for name, values in started]
    cases += [
        starting(renamed(case, f"{name}-usual", custom=f"{path}:{name}"), **USUAL) for name in ("Renamed", "Drawn")
    ]
    return play_cells(tmp_path_factory.mktemp("run"), cases)


def starting(case: Case, **initial: float | tuple[float, ...]) -> Case:
    """Other initial values of its BatchNorm layer."""
    conv, norm = case.network.layers
    norm = replace(norm, initial={**norm.initial, **initial})
    return replace(case, network=replace(case.network, layers=(conv, norm)))


def remarks(cell: Cell) -> list[str]:
    found: list[str] = cell.result.notes["cell"]["custom"]["bn"]["remarks"]
    return found


def refusal(cell: Cell) -> str:
    result = cell.result
    assert (result.outcome, result.origin, result.error_type) == ("raised", "subject", "CustomLayerError"), cell.errors
    return result.error


def test_a_constructor_gets_what_it_takes_and_the_rest_is_said(own: dict[str, Cell]) -> None:
    fine, less = own["Fine"].arrays, own["NoAffine"].arrays
    assert remarks(own["Fine"]) == []
    assert remarks(own["NoAffine"]) == ["NoAffine takes no affine: it keeps gamma, as affine=True asks"]
    np.testing.assert_array_equal(less["bn/running_var"], fine["bn/running_var"])
    assert remarks(own["Bare"])[1:] == [
        "Bare takes no eps: the scenario asks for eps=0.001, and its eps is 1e-05",
        "Bare takes no momentum: the scenario asks for momentum=0.3, and its momentum is 0.1",
    ]
    assert own["Word"].result.outcome == "ok", own["Word"].errors


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("FixedEps", "FixedEps takes no eps: its eps is 0.001, as eps=0.001 asks"),
        ("TensorEps", "TensorEps takes no eps: its eps is 0.001, as eps=0.001 asks"),
        ("OtherEps", "OtherEps takes no eps: the scenario asks for eps=0.001, and its eps is 1e-05"),
        ("Stateless", "Stateless takes no eps: the scenario asks for eps=0.001, and what it uses instead is not known"),
    ],
)
def test_an_eps_that_the_constructor_does_not_take_is_the_layers_own(
    own: dict[str, Cell], name: str, sentence: str
) -> None:
    assert sentence in remarks(own[name])


def test_parameters_of_another_shape_are_one_number_per_channel(own: dict[str, Cell]) -> None:
    cell = own["Wide"]
    assert cell.result.outcome == "ok", cell.errors
    assert cell.arrays["bn/gamma"].shape == cell.arrays["bn/beta"].shape == (14, 4)
    gamma, beta = (own["Fine"].arrays[f"bn/{name}"][0].reshape(1, 4, 1, 1) for name in ("gamma", "beta"))
    plain = (own["Fine"].arrays["output/0"] - beta) / gamma
    np.testing.assert_allclose(cell.arrays["output/0"], plain + beta, atol=1e-5)  # its one weight stays 1
    assert remarks(cell) == ["Wide holds gamma in the shape (1,): it keeps its own values, not the scenario's 4"]


# ------------------------------------------------------------------------------------------------ lazy parameters


@pytest.mark.parametrize("name", ["Lazy", "NoArguments"])
def test_lazy_parameters_get_their_shape_before_their_values(own: dict[str, Cell], name: str) -> None:
    cell, fine = own[name], own["Fine"]
    assert cell.result.outcome == "ok", cell.errors
    for what in ("bn/gamma", "bn/running_mean", "bn/running_var", "output/0", "output/12"):
        np.testing.assert_array_equal(cell.arrays[what], fine.arrays[what])


def test_a_parameter_that_gets_no_shape_is_the_layers_fault(own: dict[str, Cell]) -> None:
    assert refusal(own["Shapeless"]) == (
        "the scenario's initial values cannot be put into Shapeless: before its first forward there is no shape of "
        "weight. bncheck tried an eval forward of zeros of the shape (2, 4, 4, 4), which raises ValueError: not before "
        "the data is there. Say the shape in the constructor"
    )
