"""A file of the user's inside a script that calls things by names of its own: what is left out, and what cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rule_views import make_case

from bncheck.repro.own_files import custom_source
from bncheck.repro.spares import called, copied, is_made, without_spares
from bncheck.repro.standalone.subject import CannotWriteError
from bncheck.scenario import Network

TAKEN = ("net", "x", "out", "run")
FILE = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        out = x + WIDTH
        return out

WIDTH = 8

def make_model():
    return Net()

net = Net()
x = torch.ones(2, 3)
out = net(x)
print(out)
torch.set_num_threads(1)
lazily = lambda: Net()
"""


def text_of(source: str, name: str) -> str:
    return without_spares(source, name, TAKEN, "the network of your own")


def test_what_a_file_makes_to_try_itself_out_is_left_out_of_a_script() -> None:
    kept = text_of(FILE, "make_model")
    assert kept.split("\n\n")[-1].splitlines() == ["torch.set_num_threads(1)", "lazily = lambda: Net()"]
    assert "WIDTH = 8" in kept and "out = x + WIDTH" in kept, "locals of those names are no matter"
    compile(kept, "own", "exec")
    assert text_of("def build():\n    return 1\n", "build") == "def build():\n    return 1\n"


@pytest.mark.parametrize(
    "source",
    ["net = 3\ndef build():\n    return net\n", "def build():\n    return run()\ndef run():\n    return 1\n"],
)
def test_a_name_that_the_network_needs_and_the_script_takes_is_said(source: str) -> None:
    with pytest.raises(CannotWriteError, match=r"the file of the network of your own defines (net|run), which"):
        text_of(source, "build")


def test_two_statements_in_a_line_are_not_torn_apart() -> None:
    with pytest.raises(CannotWriteError, match="two statements in a line"):
        text_of("def build():\n    return 1\nnet = 1; torch = 2\n", "build")


def test_a_model_that_the_file_calls_net_gets_another_name_before_the_script_takes_that() -> None:
    lines = copied(FILE, "net", TAKEN, "network")
    assert lines[-3:] == ["# ---- until here", "theirs = net", ""]
    assert "net = Net()" in lines and "out = net(x)" not in lines
    assert (called("net"), called("make_model")) == ("theirs", "make_model")
    assert [is_made(FILE, name) for name in ("Net", "make_model", "net", "lazily")] == [True, True, False, False]
    with pytest.raises(CannotWriteError, match="defines net, which the script needs itself"):
        copied("def net():\n    return net\n", "net", TAKEN, "network")


@pytest.mark.parametrize("name", ["Net", "make_model", "net", "lazily"])
def test_a_network_has_a_source_by_whatever_statement_it_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.py").write_text(FILE, encoding="utf-8")
    network = Network((), model=f"{tmp_path / 'model.py'}:{name}")
    case = make_case(("train_forward",))
    assert "class Net" in custom_source(replace(case, network=network))
    assert not custom_source(replace(case, network=replace(network, model=f"{tmp_path / 'model.py'}:forward")))
