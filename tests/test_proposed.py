"""Who names a file of code alone is told what in it can be checked: something that can be made as it stands."""

from __future__ import annotations

import ast

import pytest

from bncheck.subjects.proposed import proposal

BLOCK = "class Block(nn.Module):\n    def __init__(self, inner, outer): ...\n    def forward(self, x): ...\n"
NET = "class Net(nn.Module):\n    def __init__(self, width=8): ...\n    def forward(self, x): ...\n"
WIDE = NET.replace("Net", "Wide").replace("width=8", "width, *, depth")


def proposed(source: str) -> str:
    said = proposal("m.py", ast.parse("import torch\nfrom torch import nn\n" + source))
    return said.removeprefix("bncheck check m.py:").partition(" (another one: m.py:NAME, with --with KEY=VALUE for")[0]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (BLOCK + NET, "Net"),  # the first class needs arguments
        (NET.replace("Net", "Stem") + NET, "Net"),  # a model stands behind what it is made of
        (BLOCK + NET + "def build():\n    return Net()\n", "build"),
        (BLOCK + "def make_model(width=8):\n    return Block(3, width)\n" + NET, "make_model"),
        (NET + "def build():\n    return Net()\ndef make_model():\n    return Net(16)\n", "build"),
        (BLOCK + "net = Block(3, 8)\n", "net"),
        (BLOCK + "def small():\n    return Block(3, 8)\n", "small"),
        (BLOCK + "class Small(Block):\n    def __init__(self): ...\n", "Small"),
        (BLOCK + "class Two(Block): ...\n", "Two --with inner=VALUE --with outer=VALUE"),
        ("def load_data():\n    return 1\ndef train_net():\n    return 2\n" + NET, "Net"),
        ("def main():\n    return nn.Linear(1, 1)\n" + WIDE, "Wide --with width=VALUE --with depth=VALUE"),
        ("class Data:\n    def __init__(self): ...\n" + NET, "Net"),
        ("class MyBatchNorm2d(nn.Module):\n    def __init__(self, channels): ...\n    def forward(self, x): ...\n",
         "MyBatchNorm2d"),
        ("class MyNorm: ...\ndef build(): ...\n", "MyNorm"),
    ],
)  # fmt: skip
def test_what_can_be_made_as_it_stands_is_proposed(source: str, name: str) -> None:
    assert proposed(source) == name


def test_how_another_one_is_named_is_said() -> None:
    said = proposal("m.py", ast.parse(BLOCK + NET))
    assert said.endswith(" (another one: m.py:NAME, with --with KEY=VALUE for each argument that it needs)")
    assert proposal("m.py", None) == proposal("m.py", ast.parse("x = 1")) == "write a function that builds your model"
