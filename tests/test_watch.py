"""What ``bncheck watch`` records of a program's layers, and reads again."""

from __future__ import annotations

import numpy as np
import pytest
from watched_lives import happened, record

from bncheck.life import Life
from bncheck.subjects.watched import targets_of

# One process answers most questions: each line of it is a small program with a layer or network of its own.
PROGRAM = """
import copy, warnings
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)


def two_forwards(layer, *shape):
    net = nn.Sequential(layer)
    for _ in range(2):
        net(torch.randn(*shape))
    return net


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=0.25, eps=0.5)

    def forward(self, x):
        return self.norm(x)


class Odd(nn.Module):  # a running mean and variance that no name gives away
    def __init__(self):
        super().__init__()
        self.register_buffer("a", torch.zeros(1, 4))
        self.register_buffer("b", torch.ones(1, 4))

    def forward(self, x):
        mean, var = x.mean(0, keepdim=True), x.var(0, unbiased=False, keepdim=True)
        self.a += 0.3 * (mean - self.a)
        self.b += 0.3 * (var - self.b)
        return (x - mean) / torch.sqrt(var + 1e-5)


class Deviation(Odd):
    def __init__(self):
        nn.Module.__init__(self)
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_std", torch.ones(4))

    def forward(self, x):
        return (x - self.running_mean) / self.running_std


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.BatchNorm1d(3)]

    def forward(self, x):
        return self.hidden[0](x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.BatchNorm1d(3)
        self.two = self.one

    def forward(self, x):
        return self.two(self.one(x))


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.BatchNorm1d(3)

    def forward(self, x):
        self.inner(x)
        raise ValueError("the user's own")


class After(nn.Module):
    def __init__(self):
        super().__init__()
        self.later = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.later(x)


literal = Plain()
literal(torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 4.0]]))  # 1: means 1, 1, 3, biased variances 1, 0, 1
literal.eval()  # line 78
with torch.no_grad():
    literal(torch.zeros(4, 3))
two_forwards(Odd(), 8, 4)
two_forwards(Deviation(), 8, 4)
two_forwards(nn.InstanceNorm1d(5, track_running_stats=True), 2, 5, 6)
two_forwards(nn.LazyBatchNorm1d(), 8, 6)
two_forwards(nn.BatchNorm1d(7, track_running_stats=False), 8, 7)
Listed()(torch.randn(4, 3))
Twice()(torch.randn(4, 3))
try:
    Fails()(torch.randn(4, 3))
except ValueError:
    pass
After()(torch.randn(4, 3))
jumping = two_forwards(nn.BatchNorm1d(8), 8, 8)
jumping.load_state_dict({"0.weight": torch.ones(8), "0.running_mean": torch.full((8,), 5.0)}, strict=False)  # line 96
jumping(torch.randn(8, 8))
with torch.no_grad():
    jumping[0].running_var.fill_(9.0)
jumping(torch.randn(8, 8))
frozen = two_forwards(nn.BatchNorm1d(9), 8, 9)
frozen.requires_grad_(False)  # line 102
frozen(torch.randn(8, 9))
poisoned = nn.Sequential(nn.BatchNorm1d(10))
x = torch.randn(8, 10)
poisoned(x)
x[0, 0] = float("inf")
poisoned(x)
copied = copy.deepcopy(poisoned)  # line 109
traced = two_forwards(nn.BatchNorm1d(11), 8, 11)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.jit.trace(traced.eval(), torch.randn(8, 11))  # line 113
compiled = nn.Sequential(nn.BatchNorm1d(12))
torch.compile(compiled, fullgraph=True, backend="eager")(torch.randn(8, 12))
nn.BatchNorm1d(13)(input=torch.randn(8, 13))
with torch.autocast("cpu", dtype=torch.bfloat16):
    nn.Sequential(nn.Linear(3, 14), nn.BatchNorm1d(14))(torch.randn(8, 3))
"""


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(PROGRAM)
    ended, (found,) = record(folder, "-W", "error", str(folder / "program.py"))
    assert ended.code == 0
    return found


def of_width(life: Life, channels: int):  # type: ignore[no-untyped-def]
    (found,) = [layer for layer in life.layers if layer.channels == channels]
    return found


def test_a_moment_holds_what_went_in_and_what_came_out(life: Life) -> None:
    layer = life.layer("norm")
    at = layer.moments
    assert (layer.kind, layer.channels, layer.own, layer.registered) == ("BatchNorm1d", 3, False, True)
    assert at["index"].tolist() == [0, 1]
    assert at["training"].tolist() == [1, 0]
    assert at["gradients"].tolist() == [1, 0]
    assert at["n"].tolist() == [2, 4]
    assert at["input_mean"].tolist() == [[1, 1, 3], [0, 0, 0]]
    assert at["input_var"].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert at["mean_before"].tolist() == [[0, 0, 0], [0.25, 0.25, 0.75]]
    assert at["mean_after"][0].tolist() == [0.25, 0.25, 0.75]
    assert at["var_after"][0].tolist() == [1.25, 0.75, 1.25]  # 0.75 + 0.25 · unbiased
    assert at["counter_before"].tolist() == [0, 1]
    assert (at["eps"].tolist(), at["momentum"].tolist()) == ([0.5, 0.5], [0.25, 0.25])
    np.testing.assert_allclose(at["used_mean"][0], [1, np.nan, 3], rtol=1e-6)
    np.testing.assert_allclose(at["used_invstd"][0], [1.5**-0.5, np.nan, 1.5**-0.5], rtol=1e-6)
    assert at["input_bad"].tolist() == at["output_bad"].tolist() == [0, 0]


def test_spans_say_from_which_line_a_forward_was_called(life: Life) -> None:
    first, second = life.layer("norm").spans
    assert (first.training, first.forwards, first.n, first.moved, first.input_dtype) == (True, 1, (2, 2), 1, "float32")
    assert (second.training, second.gradients, second.n, second.moved) == (False, False, (4, 4), 0)
    assert first.called_from is not None
    assert PROGRAM.splitlines()[first.called_from.line - 1].startswith("literal(torch.tensor")


def line_of(each) -> str:  # type: ignore[no-untyped-def]
    return PROGRAM.splitlines()[each.where.line - 1]


def test_who_set_the_mode_is_told_with_the_line(life: Life) -> None:
    (found,) = happened(life, "eval", "norm")
    assert line_of(found).startswith("literal.eval()")
    assert (found.index, found.detail["module"]) == (1, "Plain")


def test_a_layer_of_ones_own_is_known_by_how_its_buffers_move(life: Life) -> None:
    layer = of_width(life, 4)
    assert (layer.kind, layer.own, layer.forwards) == ("Odd", True, 2)
    at = layer.moments
    np.testing.assert_allclose(
        at["mean_after"], at["mean_before"] + 0.3 * (at["input_mean"] - at["mean_before"]), rtol=1e-5
    )


def test_a_running_deviation_is_no_variance(life: Life) -> None:
    assert "Deviation" not in {layer.kind for layer in life.layers}
    assert any(remark.startswith("Deviation keeps a running standard deviation") for remark in life.remarks)


@pytest.mark.parametrize(("channels", "kind", "tracks"), [
    (5, "InstanceNorm1d", True), (6, "BatchNorm1d", True), (7, "BatchNorm1d", False), (13, "BatchNorm1d", True),
])  # fmt: skip
def test_each_kind_of_layer_is_followed(life: Life, channels: int, kind: str, tracks: bool) -> None:
    layer = of_width(life, channels)
    assert (layer.kind, layer.tracks, layer.forwards) == (kind, tracks, 1 if channels == 13 else 2)


def test_a_layer_in_a_list_is_not_registered(life: Life) -> None:
    (layer,) = [each for each in life.layers if each.registered is False]
    assert layer.name.startswith("BatchNorm1d#")
    assert layer.names == ()


def test_a_layer_at_two_places_has_two_names(life: Life) -> None:
    layer = life.layer("one")
    assert (layer.names, layer.forwards, layer.spans[0].most_per_step) == (("one", "two"), 2, 2)


def test_an_error_in_a_forward_does_not_put_the_next_model_inside_it(life: Life) -> None:
    assert life.layer("inner").forwards == 1
    layer = life.layer("later")
    assert layer.registered is True
    assert PROGRAM.splitlines()[layer.spans[0].called_from.line - 1].startswith("After()")


def test_loading_is_told_with_the_keys_of_normalising_layers_and_the_jump_points_to_it(life: Life) -> None:
    layer = of_width(life, 8)
    (load,) = happened(life, "load", layer.name)
    assert line_of(load).startswith("jumping.load_state_dict")
    assert load.detail["missing"] == ["0.bias", "0.running_var", "0.num_batches_tracked"]
    loaded, by_hand = happened(life, "jump", layer.name)
    assert (loaded.detail["quantity"], loaded.detail["by"]) == ("running_mean", "load")
    assert loaded.detail["largest"] == pytest.approx(5.0, abs=0.5)
    assert line_of(loaded).startswith("jumping.load_state_dict")
    assert (by_hand.detail["quantity"], by_hand.detail["by"], by_hand.where) == ("running_var", "", None)


def test_freezing_is_told_with_the_line(life: Life) -> None:
    layer = of_width(life, 9)
    (found,) = happened(life, "requires_grad", layer.name)
    assert line_of(found).startswith("frozen.requires_grad_")
    assert (found.detail["value"], layer.trainable) == (False, False)


def test_the_birth_of_poison_says_that_the_input_brought_it(life: Life) -> None:
    layer = of_width(life, 10)
    (found,) = happened(life, "nonfinite", layer.name)
    assert (found.detail["in"], found.detail["born"], found.index) == ("input", False, layer.spans[0].first_index + 1)
    assert layer.moments["input_bad"].tolist() == [0, 1]


def test_copies_and_exports_are_told_with_the_line(life: Life) -> None:
    (copied,) = happened(life, "copy")
    assert line_of(copied).startswith("copied = copy.deepcopy")
    exports = {each.detail["by"]: line_of(each).strip() for each in happened(life, "export")}
    assert exports["torch.jit.trace"].startswith("torch.jit.trace(traced")
    assert exports["torch.compile"].startswith("torch.compile(compiled, fullgraph=True")
    assert of_width(life, 11).forwards == 2  # the tracer's own forward is none
    assert of_width(life, 12).forwards == 1


def test_autocast_shows_in_the_dtype_of_the_input(life: Life) -> None:
    layer = of_width(life, 14)
    assert layer.spans[0].input_dtype == "bfloat16"
    assert layer.dtypes["running_mean"] == "float32"


def test_the_life_says_whose_it_is_and_how_it_ended(life: Life) -> None:
    assert (life.program, life.framework, life.rank, life.world, life.code) == ("program.py", "torch", 0, 1, 0)
    assert life.version.startswith("2.")
    (target,) = targets_of((life,))
    assert (target.device, target.python.split(".")[0], {layer.device for layer in life.layers}) == (
        "cpu",
        "3",
        {"cpu"},
    )
    assert happened(life, "end")


# ------------------------------------------------------------------------------------------ as it would run anyway
