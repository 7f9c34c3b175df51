"""What is wrong with a scenario file is said with its line, all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_scenario_file import faults

from bncheck.errors import ScenarioError
from bncheck.scenario_files.files import load_scenario


def test_all_faults_of_a_file_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = (
        'titel = "t"\n'
        'why = "w"\n'
        "[network]\n"
        "layers = [\n"
        '  { name = "bn", type = "batchnorm" },\n'
        '  { name = "bn2", type = "batch_norm", eps = -1, batch_weight = 1.5 },\n'
        "]\n"
        "[input]\n"
        "shape = [4, -3]\n"
        'fill = "one"\n'
        "[program]\n"
        "repeat = 0\n"
        "events = ["
        '"train_forwards"]\n'
        "[[expect]]\n"
        'between = ["a", "b"]\n'
        'cause = "update-phases"\n'
    )
    found = [line.split(": ", 2) for line in faults(tmp_path, text)]
    assert [(where, key) for where, key, _ in found] == [
        ("one.toml:1", "title"),
        ("one.toml:1", "titel"),
        ("one.toml:5", "network.layers[0].type"),
        ("one.toml:6", "network.layers[1].batch_weight"),
        ("one.toml:6", "network.layers[1].eps"),
        ("one.toml:9", "input.shape[1]"),
        ("one.toml:10", "input.fill"),
        ("one.toml:12", "program.repeat"),
        ("one.toml:13", "program.events[0].event"),
        ("one.toml:16", "expect[0].cause"),
    ]
    assert found[2][2].endswith('did you mean "batch_norm"?')
    assert "0 to 1" in found[3][2]


BN = '{ name = "bn", type = "batch_norm" }'
FEATURES = '{ name = "c", type = "conv2d", out_channels = 4, kernel = 3 }'


@pytest.mark.parametrize(
    ("change", "line", "sentence"),
    [
        ({"events": '["backward"]'}, 9, "none before it leaves a gradient"),
        ({"events": '["eval_forward", "no_grad_forward", "backward"]'}, 9, "none before it leaves a gradient"),
        ({"events": "[]"}, 9, "a program without events does nothing"),
        ({"events": '["run_exported"]'}, 9, "nothing is exported before it"),
        ({"events": '[{ event = "train_forward", input = "bda" }]'}, 9, 'unknown input "bda"'),
        ({"events": '[{ event = "set_mode", training = true, layer = "bm" }]'}, 9, 'unknown layer "bm"'),
        ({"events": '["set_mode"]'}, 9, "set_mode needs training"),
        ({"events": '[{ event = "flush", opset = 9 }]'}, 9, "means nothing for flush"),
        ({"shape": "[]"}, 6, "too short"),
        ({"shape": "[3]"}, 6, "has no channel axis"),
        ({"shape": "[4, 0]"}, 6, "is empty in an axis other than the batch axis"),
        ({"shape": "[4, 3.0]"}, 6, "must be a whole number, not 3.0"),
        ({"shape": "[200000, 2000]"}, 6, "hold 400,000,000 values; at most 200,000,000"),
        ({"input": "mean = nan"}, 7, "must be finite"),
        ({"input": "mean = [1, 2]"}, 7, "has 2 numbers for 3 channels"),
        ({"input": "std = 0"}, 7, "is not a spread"),
        ({"input": 'poison = "nan"\npoison_channel = 3'}, 8, "3 of 3 channels; allowed: 0 to 2"),
        ({"input": 'poison = "none"'}, 7, 'unknown poison "none"'),
        ({"input": 'dtype = "float23"'}, 7, 'did you mean "float32"?'),
        ({"input": 'fill = "ones"\nbatches = "distinct"'}, 8, 'fill "ones" has only one batch'),
        ({"input": "value = 2"}, 7, 'is not read with fill "normal"'),
        ({"input": "channel_axis = 0"}, 7, "0 is not a channel axis"),
        ({"layers": f"{BN}, {BN}"}, 4, '"bn" names 2 layers'),
        ({"layers": ""}, 3, "needs layers, or a file instead"),
        (
            {"layers": '{ name = "bn", type = "batch_norm", channels = 4 }'},
            4,
            "4 channels, but axis 1 of (4, 3) holds 3",
        ),
        ({"layers": '{ name = "bn", type = "batch_norm", axis = 0 }'}, 4, "is the batch axis"),
        ({"layers": '{ name = "bn", type = "batch_norm", axis = 2 }'}, 4, "axis 2 does not exist in (4, 3)"),
        ({"layers": '{ name = "bn", type = "batch_norm", eps = inf }'}, 4, "inf is out of range"),
        ({"layers": '{ name = "bn", type = "batch_norm", batch_weight = nan }'}, 4, "nan is out of range"),
        ({"layers": '{ name = "bn", type = "batch_norm", initial = { gamma = nan } }'}, 4, "must be finite"),
        ({"layers": '{ name = "bn", type = "batch_norm", initial = { gamma = [1, 2] } }'}, 4, "2 numbers for 3"),
        (
            {"layers": '{ name = "b", type = "batch_norm", affine = false, initial = { beta = 1 } }'},
            4,
            "told not to have",
        ),
        ({"layers": '{ name = "b/n", type = "batch_norm" }'}, 4, "letters, digits, _ and -"),
        ({"layers": '{ name = "r", type = "relu", eps = 1 }'}, 4, "means nothing for a relu layer"),
        ({"layers": '{ name = "d", type = "dense" }'}, 4, "a dense layer needs it"),
        ({"layers": FEATURES}, 4, "conv2d takes (batch, channels, height, width)"),
        ({"layers": FEATURES, "shape": "[2, 3, 2, 2]"}, 4, "does not fit into"),
        ({"layers": '{ name = "c", type = "custom" }, { name = "bn", type = "batch_norm" }'}, 4, "has to say it"),
        ({"network": 'returns = "bm"'}, 5, 'unknown layer "bm"; allowed: bn; did you mean "bn"?'),
        ({"network": 'custom = "../up.py:Norm"'}, 5, "lies outside of the scenario's folder"),
        ({"network": 'custom = "gone.py:Norm"'}, 5, 'there is no file "gone.py"'),
        ({"network": 'custom = "norm"'}, 5, "file.py:Class"),
        ({"more": "[tolerance]\nrtol = nan"}, 11, "must be finite"),
        ({"more": '[matrix]\n"input.shape" = []'}, 11, "an empty list leaves no case to run"),
        ({"more": '[matrix]\n"input.shape" = 3'}, 11, "must be a list of values"),
        ({"more": '[matrix]\n"input.shpe" = [[1, 3]]'}, 11, 'did you mean "shape"?'),
        ({"more": '[matrix]\n"input.shape" = [[1, 3], [-1, 3]]'}, 11, "-1 is too small"),
        ({"more": '[matrix]\n"input.shape.2" = [1]'}, 11, "there is no entry 2"),
        ({"more": '[matrix]\n"network.layers.bm.eps" = [1]'}, 11, 'did you mean "bn"?'),
        ({"more": '[matrix]\n"title" = ["x"]'}, 11, "cannot be varied"),
        ({"more": '[matrix]\n"input.seed" = [1]\n[matrix.labels]\n"input.seed" = ["a", "b"]'}, 13, "a list of 1 names"),
        (
            {"more": '[matrix]\n"input.seed" = [1]\n[matrix.labels]\n"input.sed" = ["a"]'},
            13,
            'did you mean "input.seed"?',
        ),
        ({"more": '[[expect]]\nbetween = ["a", "b"]'}, 10, "expects nothing"),
        ({"more": '[[expect]]\nbetween = ["a"]\nagree = true'}, 11, "at least 2"),
        (
            {"more": '[[expect]]\nbetween = ["a", "b"]\nagree = true\nwhen = { x = 1 }'},
            13,
            'unknown axis of the matrix "x"',
        ),
    ],
)
def test_each_fault_has_its_line_and_sentence(tmp_path: Path, change: dict[str, str], line: int, sentence: str) -> None:
    parts = {
        "layers": BN,
        "shape": "[4, 3]",
        "events": '["train_forward"]',
        "network": "",
        "input": "",
        "more": "",
        **change,
    }
    text = (
        f'title = "t"\nwhy = "w"\n[network]\nlayers = [{parts["layers"]}]\n'
        + (f"{parts['network']}\n" if parts["network"] else "")
        + f"[input]\nshape = {parts['shape']}\n"
        + (f"{parts['input']}\n" if parts["input"] else "\n" if not parts["network"] else "")
        + f"[program]\nevents = {parts['events']}\n"
        + parts["more"]
    )
    (found,) = faults(tmp_path, text)
    assert sentence in found
    assert found.startswith(f"one.toml:{line}: "), found


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'title = "a\n', "one.toml:1: this is not valid TOML: "),
        (b'title = "a"\nwhy = \n', "one.toml:2: this is not valid TOML: Invalid value"),
        (b"a = 1\na = 2\n", "one.toml:2: this is not valid TOML: Cannot overwrite a value"),
        (b"\xff\xfe", "one.toml is not UTF-8 text"),
        (b"a = " + b"[" * 5000, "one.toml"),
        (b"", "one.toml:1: title: is missing"),
    ],
)
def test_files_that_are_no_toml(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "one.toml"
    path.write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert sentence in caught.value.message


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="there is no scenario file"):
        load_scenario(tmp_path / "none.toml")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_scenario(tmp_path)
