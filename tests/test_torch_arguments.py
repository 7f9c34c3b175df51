"""What a layer of one's own is given in PyTorch, its arguments and its first values; what is said where it is not."""

# The worker's files carry no annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch_cells import Cell, cases_of, play_cells, renamed

from bncheck.scenario import Case
from bncheck.worker.torch_side import arguments, custom

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

class Packed(Renamed):
    def __init__(self, *a, **k):
        super().__init__(*a, **k)
        del self.stored_mean, self.stored_var
        self.register_buffer("stats", torch.cat([torch.zeros(4), torch.ones(4)]))
    def forward(self, x):
        self.stored_mean, self.stored_var = self.stats.view(2, 4)
        try:
            return super().forward(x)
        finally:
            del self.stored_mean, self.stored_var

class Stacked(Packed):
    def __init__(self, *a, **k):
        super().__init__(*a, **k)
        self.stats = self.stats.view(2, 4)

class Handed(Renamed):
    weight, bias = property(lambda self: self.scale), property(lambda self: self.shift)
    running_mean, running_var = property(lambda self: self.stored_mean), property(lambda self: self.stored_var)

class Drawn(Packed):
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
    "Fine", "NoAffine", "Bare", "Word", "Wide", "Renamed", "Packed", "Stacked", "Handed", "Derived", "Stateless",
    "Flag", "Lazy", "NoArguments", "Shapeless", "FixedEps", "TensorEps", "OtherEps",
)  # fmt: skip
MOVED = {"running_mean": (0.5, 1.0, -2.0, 0.0), "running_var": (2.0, 1.0, 0.5, 4.0)}
USUAL = {"gamma": 1.0, "beta": 0.0}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    (case,) = cases_of("custom-layer").values()
    path = tmp_path_factory.mktemp("layers") / "layers.py"
    path.write_text(LAYERS, encoding="utf-8")
    cases = [renamed(case, name, custom=f"{path}:{name}") for name in NAMES]
    started = [(name, MOVED) for name in ("Renamed", "Plain", "Packed", "Stacked", "Handed", "Derived", "Fine")]
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


# ------------------------------------------------------------------------------------------------- initial values


def test_initial_values_that_have_no_place_are_refused_and_not_judged(own: dict[str, Cell]) -> None:
    """Its parameters lie under names that bncheck does not know: it would be compared from other values."""
    assert refusal(own["Packed"]) == (
        "the scenario's initial gamma and beta cannot be put into Packed: bncheck looks for weight or gamma, and for "
        "bias or beta; Packed has scale and shift. Hand them out under such a name, as weight = property(lambda self: "
        "self.…) in the class does, or take gamma and beta out of the scenario's `initial`"
    )
    words = refusal(own["Packed-moved"])
    assert "initial gamma, beta, running_mean and running_var cannot be put into Packed: " in words
    assert "Packed has scale, shift and stats. " in words


@pytest.mark.parametrize(
    "name", ["Handed", "Handed-moved", "Renamed", "Renamed-moved", "Plain-moved", "Stacked", "Stacked-moved"]
)
def test_a_property_that_the_refusal_proposes_is_enough_and_so_is_what_state_does(
    own: dict[str, Cell], name: str
) -> None:
    cell, fine = own[name], own["Fine-moved" if name.endswith("-moved") else "Fine"]
    assert cell.result.outcome == "ok", cell.errors
    for what in ("bn/gamma", "bn/beta", "bn/running_mean", "bn/running_var", "output/0", "output/12"):
        np.testing.assert_allclose(cell.arrays[what], fine.arrays[what], rtol=1e-5, atol=1e-6)


def test_a_state_that_is_worked_out_cannot_be_given_a_value(own: dict[str, Cell]) -> None:
    assert own["Derived"].result.outcome == "ok", "the usual 0 and 1 are what it starts from"
    assert refusal(own["Derived-moved"]) == (
        "the scenario's initial running_var cannot be put into Derived: it works its running_var out of other tensors. "
        "Make it a buffer of its own, or take running_var out of the scenario's `initial`"
    )


def test_the_usual_values_need_no_place(own: dict[str, Cell]) -> None:
    """Only where nothing in the layer could be them is it said that it starts from others."""
    assert own["Renamed-usual"].result.outcome == own["Drawn-usual"].result.outcome == "ok"
    assert not [text for text in remarks(own["Renamed-usual"]) if "initial" in text]
    assert remarks(own["Drawn-usual"]) == [
        "if Drawn keeps a gamma, it begins with its own, and not with 1: bncheck looks for weight or gamma; Drawn has "
        "scale and shift",
        "if Drawn keeps a running_mean, it begins with its own, and not with 0: bncheck looks for running_mean or "
        "moving_mean; Drawn has stats",
        "if Drawn keeps a running_var, it begins with its own, and not with 1: bncheck looks for running_var or "
        "moving_var or moving_variance; Drawn has stats",
    ]


def test_a_layer_without_the_state_is_played_and_judged(own: dict[str, Cell]) -> None:
    assert own["Stateless"].result.outcome == "ok", own["Stateless"].errors
    assert "bn/gamma" not in own["Stateless"].arrays


def test_a_flag_is_no_parameter(own: dict[str, Cell]) -> None:
    assert own["Flag"].result.outcome == "ok", own["Flag"].errors
    np.testing.assert_array_equal(own["Flag"].arrays["bn/beta"], own["Fine"].arrays["bn/beta"])


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


# --------------------------------------------------------------------------------------------- one layer, two places


def test_a_second_place_leaves_the_layers_own_values(tmp_path: Path) -> None:
    """The second place has initial values of its own in the scenario: the layer is made where it stands first."""
    case = next(each for each in cases_of("layer-used-twice").values() if each.network.layers[-1].same_as)
    first, conv, second = case.network.layers
    layers = (replace(first, initial={**first.initial, "gamma": 3.0}), conv, second)
    (tmp_path / "layers.py").write_text(LAYERS, encoding="utf-8")
    cell = play_cells(tmp_path, [renamed(case, "twice", custom=f"{tmp_path / 'layers.py'}:Fine", layers=layers)])[
        "twice"
    ]
    assert cell.result.outcome == "ok", cell.errors
    assert cell.arrays["bn1/gamma"][0].tolist() == [3, 3, 3]


# ------------------------------------------------------------------------------- where the number of channels goes


class Usual:
    def __init__(self, channels, eps=1e-5, momentum=0.1): ...  # type: ignore[no-untyped-def]


class PriorFirst:
    def __init__(self, prior, num_features, eps=1e-5): ...  # type: ignore[no-untyped-def]


class Behind:
    def __init__(self, alpha, threshold, *args, **kwargs): ...  # type: ignore[no-untyped-def]


class ShapeOrSize:
    def __init__(self, input_shape=None, input_size=None, eps=1e-5): ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("kind", "given", "positional", "named"),
    [
        (Usual, {}, [4], {"eps": 0.5}),
        (PriorFirst, {"prior": 7}, [], {"prior": 7, "num_features": 4, "eps": 0.5}),
        (Behind, {"alpha": 1, "threshold": 2}, [1, 2, 4], {"eps": 0.5}),
        (ShapeOrSize, {"input_size": 4}, [], {"input_size": 4, "eps": 0.5}),
    ],
)
def test_the_number_of_channels_goes_where_its_name_is(
    kind: type, given: dict[str, int], positional: list[int], named: dict[str, float]
) -> None:
    first, taken, left_out = arguments.arguments_for(custom, kind, 4, {"eps": 0.5, **given})
    assert (first, taken, left_out) == (positional, named, {})


def test_what_is_lacking_is_named_beside_the_number_of_channels() -> None:
    with pytest.raises(custom.CustomLayerError, match="needs prior, which bncheck does not know") as caught:
        arguments.arguments_for(custom, PriorFirst, 4, {})
    assert (caught.value.lacks, caught.value.counted) == (["prior"], "num_features")
