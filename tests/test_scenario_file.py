"""Reading scenario files: what they become, and what is said of wrong ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import patience

from bncheck.environments.backend_file import find_backends
from bncheck.errors import ScenarioError, UsageError
from bncheck.scenario import Case, Scenario
from bncheck.scenario_files import keys, schema
from bncheck.scenario_files.files import load_scenario
from bncheck.scenario_files.overrides import parse_override
from bncheck.scenario_files.shipped import find_scenarios, resolve_scenario

HEAD = 'title = "t"\nwhy = "w"\n'
NETWORK = '[network]\nlayers = [{ name = "bn", type = "batch_norm" }]\n'
INPUT = "[input]\nshape = [4, 3]\n"
PROGRAM = '[program]\nevents = ["train_forward"]\n'


def load(folder: Path, text: str, overrides: Mapping[str, Any] = {}) -> Scenario:
    path = folder / "one.toml"
    path.write_text(text, encoding="utf-8")
    return load_scenario(path, overrides)


def faults(folder: Path, text: str, overrides: Mapping[str, Any] = {}) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(ScenarioError) as caught:
        load(folder, text, overrides)
    assert caught.value.exit_code == 2
    return caught.value.message.replace(f"{folder}/", "").splitlines()


def test_every_key_is_told_in_a_sentence() -> None:
    """The docs' table of keys is made of them; events have a table of their own."""
    models = {model for model in schema._MODELS.values() if model is not schema.EventTable}
    assert models == set(keys.TABLES)
    assert all(list(told) == list(model.model_fields) for model, (_, told) in keys.TABLES.items())
    rows = {key: (default, says) for key, default, says in keys.key_rows()}
    assert rows["title"][0] == "required"
    assert rows["network.layers[].batch_weight"][0] == "0.1"
    assert rows["input.fill"][0] == '"normal"'
    assert all(says for _, says in rows.values())


def only(scenario: Scenario) -> Case:
    (case,) = scenario.cases
    return case


def test_smallest_file(tmp_path: Path) -> None:
    scenario = load(tmp_path, HEAD + NETWORK + INPUT + PROGRAM)
    case = only(scenario)
    assert (case.id, case.matrix, case.dtype) == ("one--base", {}, "float32")
    layer = case.network.layers[0]
    assert (layer.channels, layer.batch_weight, layer.eps) == (3, 0.1, 1e-5)
    assert layer.initial == {"gamma": 1.0, "beta": 0.0, "running_mean": 0.0, "running_var": 1.0}


@pytest.mark.parametrize("name", ["empty", "single"])
def test_batches_of_none_and_one_are_legal(tmp_path: Path, name: str) -> None:
    size = {"empty": 0, "single": 1}[name]
    assert only(load(tmp_path, HEAD + NETWORK + f"[input]\nshape = [{size}, 3]\n" + PROGRAM)).inputs["main"].shape == (
        size,
        3,
    )


def test_initial_values_may_be_left_to_the_framework(tmp_path: Path) -> None:
    layer = '{ name = "bn", type = "batch_norm", batch_weight = "default", eps = "default", initial = %s }'
    text = HEAD + f"[network]\nlayers = [{layer}]\n" + INPUT + PROGRAM
    found = only(load(tmp_path, text % '"framework"')).network.layers[0]
    assert (found.initial, found.batch_weight, found.eps) == ({}, None, None)
    found = only(load(tmp_path, text % '{ gamma = "framework", beta = [1, 2, 3] }')).network.layers[0]
    assert found.initial == {"beta": (1.0, 2.0, 3.0), "running_mean": 0.0, "running_var": 1.0}


def test_program_is_unrolled_and_batches_counted_per_input(tmp_path: Path) -> None:
    text = (
        HEAD + NETWORK + INPUT + '[inputs.bad]\npoison = "nan"\n[inputs.still]\nbatches = "same"\n'
        '[program]\nfirst = [{ event = "train_forward", input = "bad" }]\n'
        'events = ["train_forward", "backward", { event = "eval_forward", input = "still" }]\nrepeat = 2\n'
        'then = [{ event = "set_mode", training = false, layer = "bn" }, { event = "forward", input = "bad" }]\n'
    )
    case = only(load(tmp_path, text))
    assert [(event.op, event.input, event.batch) for event in case.events] == [
        ("train_forward", "bad", 0),
        ("train_forward", "main", 0),
        ("backward", "main", 0),
        ("eval_forward", "still", 0),
        ("train_forward", "main", 1),
        ("backward", "main", 1),
        ("eval_forward", "still", 0),
        ("set_mode", "main", 0),
        ("forward", "bad", 1),
    ]
    assert case.events[7].arguments == {"training": False, "layer": "bn"}
    assert (case.inputs["bad"].shape, case.inputs["bad"].poison, case.inputs["main"].poison) == ((4, 3), "nan", None)


def test_matrix_is_a_product_with_readable_names(tmp_path: Path) -> None:
    matrix = (
        '[matrix]\n"program.events" = [["train_forward"], ["train_forward", "backward"]]\n'
        '"input.shape.0" = [1, 2]\n"network.layers.bn.batch_weight" = [0.5, "default"]\n'
    )
    scenario = load(tmp_path, HEAD + NETWORK + INPUT + PROGRAM + matrix)
    assert len(scenario.cases) == 8
    first, last = scenario.cases[0], scenario.cases[-1]
    assert (first.name, first.label) == ("forward--n-1--batch-weight-0.5", "forward, n 1, batch weight 0.5")
    assert last.matrix == {
        "program.events": ["train_forward", "backward"],
        "input.shape.0": 2,
        "network.layers.bn.batch_weight": "default",
    }
    assert (last.inputs["main"].shape, last.network.layers[0].batch_weight, len(last.events)) == ((2, 3), None, 2)


def test_free_axis_moves_several_keys_and_labels_name_it(tmp_path: Path) -> None:
    matrix = (
        '[matrix]\npath = [{ "input.shape" = [6, 3] }, { "input.shape" = [2, 1, 5], "network.layers.bn.axis" = -1 }]\n'
        '[matrix.labels]\npath = ["2-D", "last"]\n'
        '[[expect]]\nbetween = ["a", "b"]\nagree = true\nwhen = { path = "last" }\n'
    )
    scenario = load(tmp_path, HEAD + NETWORK + INPUT + PROGRAM + matrix)
    assert [(case.name, case.matrix, case.network.layers[0].channels) for case in scenario.cases] == [
        ("2-d", {"path": "2-D"}, 3),
        ("last", {"path": "last"}, 5),
    ]
    assert scenario.cases[1].inputs["main"].channel_axis == -1
    assert scenario.expect[0].when == {"path": "last"}


def test_labels_in_when_stand_for_their_values(tmp_path: Path) -> None:
    matrix = (
        '[matrix]\n"input.fill" = ["ones", "normal"]\n[matrix.labels]\n"input.fill" = ["flat", "noisy"]\n'
        '[[expect]]\nbetween = ["a", "b"]\ncauses = ["eps", "rounding"]\nwhen = { "input.fill" = "flat" }\n'
    )
    scenario = load(tmp_path, HEAD + NETWORK + INPUT + PROGRAM + matrix)
    assert scenario.expect[0].when == {"input.fill": "ones"}
    assert scenario.expect[0].causes == ("eps", "rounding")


def test_equal_labels_still_give_unique_names(tmp_path: Path) -> None:
    matrix = '[matrix]\n"input.seed" = [1, 2]\n[matrix.labels]\n"input.seed" = ["x", "x"]\n'
    assert [case.name for case in load(tmp_path, HEAD + NETWORK + INPUT + PROGRAM + matrix).cases] == ["x", "x-2"]


def test_overrides_change_keys_and_settle_an_axis(tmp_path: Path) -> None:
    text = HEAD + NETWORK + INPUT + PROGRAM + '[matrix]\n"input.shape" = [[2, 3], [4, 3]]\n'
    case = only(load(tmp_path, text, {"input.shape": [8, 5], "network.layers.bn.eps": 0.5, "input.fill": "ones"}))
    assert (case.inputs["main"].shape, case.network.layers[0].eps, case.inputs["main"].fill) == ((8, 5), 0.5, "ones")
    assert case.matrix == {"input.shape": [8, 5]}


def test_override_that_the_matrix_would_undo_is_refused(tmp_path: Path) -> None:
    text = HEAD + NETWORK + INPUT + PROGRAM + '[matrix]\n"input.shape" = [[2, 3], [4, 3]]\n'
    (line,) = faults(tmp_path, text, {"input.shape.0": 8})
    assert line.startswith('--set input.shape.0: every case has its own, from the matrix\'s "input.shape"')


def test_unknown_override_names_the_nearest_key(tmp_path: Path) -> None:
    found = faults(tmp_path, HEAD + NETWORK + INPUT + PROGRAM, {"input.shpe": [1], "network.layers.bm.eps": 1})
    assert [line.partition(":")[0] for line in found] == ["--set network.layers.bm.eps", "--set input.shpe"]
    assert 'did you mean "bn"?' in found[0]
    assert 'did you mean "shape"?' in found[1]


def test_an_override_in_a_table_that_does_not_exist_is_blamed_on_the_command_line(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, HEAD + NETWORK + INPUT + PROGRAM, {"progam.repeat": 3})
    assert line.startswith('--set progam.repeat: unknown key "progam"')
    assert line.endswith('did you mean "program"?')


def test_custom_file_gets_its_whole_path(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Norm: pass\n")
    network = NETWORK + 'custom = "mine.py:Norm"\n'
    case = only(load(tmp_path, HEAD + network + INPUT + PROGRAM))
    assert case.network.custom == f"{tmp_path / 'mine.py'}:Norm"


def test_custom_file_of_the_command_line_is_looked_up_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.py").write_text("class Norm: pass\n")
    monkeypatch.chdir(tmp_path / "here")
    case = only(load(tmp_path, HEAD + NETWORK + INPUT + PROGRAM, {"network.custom": "mine.py:Norm"}))
    assert case.network.custom == f"{tmp_path / 'here' / 'mine.py'}:Norm"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("program.repeat=10", ("program.repeat", 10)),
        ("input.shape = [2, 3]", ("input.shape", [2, 3])),
        ("input.fill=ones", ("input.fill", "ones")),
        ('input.fill="ones"', ("input.fill", "ones")),
        ("why=a=b", ("why", "a=b")),
        ("x.y=1\nz = 2", ("x.y", "1\nz = 2")),
    ],
)
def test_override_texts(text: str, found: tuple[str, object]) -> None:
    assert parse_override(text) == found


@pytest.mark.parametrize("text", ["repeat", "=3", "a b=3", ""])
def test_override_without_key_or_value(text: str) -> None:
    with pytest.raises(UsageError, match="is not key=value"):
        parse_override(text)


def test_names_of_shipped_scenarios_and_paths_resolve(tmp_path: Path) -> None:
    assert resolve_scenario("all-ones").name == "all-ones.toml"
    path = tmp_path / "mine.toml"
    path.write_text("")
    assert resolve_scenario(str(path)) == path
    with pytest.raises(UsageError, match="did you mean all-ones"):
        resolve_scenario("all-one")
    with pytest.raises(UsageError, match="no scenario file"):
        resolve_scenario("gone/mine.toml")


VALUES = st.recursive(
    st.none().map(lambda _: "nan")
    | st.integers(-3, 9).map(str)
    | st.sampled_from(['"x"', "true", "inf", "1.5", '"nan"']),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    max_leaves=4,
)
KEYS = [
    "title",
    "why",
    "default",
    "dtype",
    "network.layers",
    "network.custom",
    "input.shape",
    "input.fill",
    "input.mean",
    "inputs.a.shape",
    "inputs",
    "program.events",
    "program.repeat",
    "matrix",
    "matrix.a",
    "matrix.labels",
    "expect",
]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8))
def test_any_valid_toml_gives_a_scenario_or_sentences(
    tmp_path_factory: pytest.TempPathFactory, keys: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
    with pytest.raises(ScenarioError) as caught:  # no document of these keys is complete
        load_scenario(path)
    assert all(line.startswith(f"{path}:") for line in caught.value.message.splitlines())


def test_shipped_scenarios_and_two_thousand_cases_expand_quickly(tmp_path: Path) -> None:
    """Measured: 11 ms of computing for the shipped files, 0.4 s for 2,000 cases, whatever else the machine does."""
    load_scenario(find_scenarios()[0])
    start = time.process_time()
    assert all(load_scenario(path).cases for path in find_scenarios())
    assert time.process_time() - start < patience(1.0)
    start = time.process_time()
    matrix = f'[matrix]\n"input.seed" = {list(range(1000))}\n"input.fill" = ["ones", "normal"]\n'
    assert len(load(tmp_path, HEAD + NETWORK + INPUT + PROGRAM + matrix).cases) == 2000
    assert time.process_time() - start < patience(5.0)


def test_cases_share_what_is_the_same_and_nothing_else(tmp_path: Path) -> None:
    """1, 1.0 and true are equal in Python, and three different things to a framework."""
    layer = "[[network.layers]]\nname = 'bn'\ntype = 'batch_norm'\n[network.layers.native.torch]\nflag = 0\n"
    matrix = '[matrix]\n"network.layers.bn.native.torch.flag" = [1, 1.0, true]\n"input.seed" = [0, 1]\n'
    cases = load(tmp_path, HEAD + layer + INPUT + PROGRAM + matrix).cases
    flags = [case.network.layers[0].native["torch"]["flag"] for case in cases]
    assert [type(flag) for flag in flags] == [int, int, float, float, bool, bool]
    assert [case.inputs["main"].seed for case in cases] == [0, 1] * 3
    assert cases[0].network is cases[1].network
    assert all(case.events is cases[0].events for case in cases)
    assert cases[0].inputs["main"] is cases[2].inputs["main"]


@pytest.mark.parametrize(
    ("between", "place", "sentence"),
    [
        ('["mxnet", "pytorch"]', "between[1]", "there is no backend 'pytorch' (did you mean torch?)"),
        ('["torhc", "mxnet"]', "between[0]", "there is no backend 'torhc' (did you mean torch?)"),
        ('["torch[functionl]", "mxnet"]', "between[0]", "has no variant 'functionl' (did you mean functional?)"),
        ('["torch@cpuu", "mxnet"]', "between[0]", "has no device 'cpuu' (did you mean cpu?)"),
    ],
)
def test_an_expectation_between_targets_that_cannot_be(tmp_path: Path, between: str, place: str, sentence: str) -> None:
    """It would never apply, and the run would be green for ever."""
    path = tmp_path / "one.toml"
    path.write_text(
        f"{HEAD}{NETWORK}{INPUT}{PROGRAM}\n[[expect]]\nbetween = {between}\nagree = true\n", encoding="utf-8"
    )
    line = path.read_text().splitlines().index(f"between = {between}") + 1
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path, backends=find_backends())
    (said,) = caught.value.message.splitlines()
    assert said.startswith(f"{path}:{line}: expect[0].{place}: ")
    assert sentence in said
    assert load_scenario(path).expect  # only looked at


def test_a_target_that_cannot_be_has_its_line_too(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text('targets = ["torch", "pytorch"]\n' + HEAD + NETWORK + INPUT + PROGRAM, encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"one.toml:1: targets\[1\]: there is no backend 'pytorch'"):
        load_scenario(path, backends=find_backends())


def test_shipped_scenarios_name_targets_that_there_are() -> None:
    backends = find_backends()
    assert all(load_scenario(path, backends=backends) for path in find_scenarios())


def test_a_wrong_override_does_not_ask_for_a_correct_file(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path, HEAD + NETWORK + INPUT + PROGRAM, {"progam.repeat": 3})
    assert caught.value.remedy == "correct that --set; a shipped scenario (bncheck list) shows every key in use"
