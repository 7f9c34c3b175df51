"""What hangs on the buffers of a layer, from a real run: counted, drawn, and as DOT text."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from torch_cells import Cell, cases_of, play_cells

from bncheck.finding import Finding
from bncheck.report import graph
from bncheck.report.gallery import Gallery
from bncheck.run_folder.results import CaseResult, CellResult, Results, ScenarioResult, TargetResult
from bncheck.worker.torch_side import graph as torch_graph


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Cell], Results]:
    folder = tmp_path_factory.mktemp("run")
    cases = [case for case in cases_of("custom-graph").values() if case.name in ("good--fb", "leaky--fb")]
    cells = play_cells(folder, cases)
    described = tuple(
        CaseResult(case.name, case.label, {}, tuple(event.op for event in case.events), steps=case.steps)
        for case in cases
    )
    found = Finding(
        "BN404", "graph-retention", "defect", "it keeps them", ("torch",), "custom-graph", "leaky--fb", "bn"
    )
    results = Results(
        "0", "", "", (TargetResult("torch", "torch", "torch"),), (ScenarioResult("custom-graph", cases=described),),
        tuple(CellResult("custom-graph", case.name, "torch", "torch", "ok") for case in cases), findings=(found,),
    )  # fmt: skip
    return folder, cells, results


def test_nodes_are_listed_step_by_step_and_drawn_where_there_are_any(
    played: tuple[Path, dict[str, Cell], Results],
) -> None:
    folder, cells, results = played
    written = graph.render(results, folder)
    assert [path.name for path in written] == ["graph.csv", "custom-graph--leaky--fb--graph.svg",
                                               "custom-graph--leaky--fb--graph.png"]  # fmt: skip
    header, *lines = written[0].read_text().splitlines()
    assert header == "scenario,case,target,layer,step,nodes,bytes"
    leaky = [line.split(",") for line in lines if ",leaky--fb," in line]
    assert [int(row[4]) for row in leaky] == list(range(14)), "the start, twelve repeats, and the picture's own event"
    nodes = cells["leaky--fb"].arrays["bn/graph_nodes"]
    assert [float(row[5]) for row in leaky] == [*nodes[:-1:2].tolist(), nodes[-1]]
    assert {line.split(",")[5] for line in lines if ",good--fb," in line} == {"0.0"}
    assert "autograd nodes behind the buffers" in written[1].read_text()
    (picture,) = Gallery(results, folder).extras(results.scenarios[0])
    assert picture.name == "custom-graph--leaky--fb--graph", "the page shows it, too"


def test_the_graph_as_dot_text_has_every_node_once(played: tuple[Path, dict[str, Cell], Results]) -> None:
    _, cells, _ = played
    assert cells["good--fb"].result.artifacts == ()
    assert cells["leaky--fb"].result.artifacts == ("graph-bn-1.dot",)
    text = (cells["leaky--fb"].folder / "graph-bn-1.dot").read_text()
    assert text.startswith('digraph "behind the buffers of bn" {')
    labels = re.findall(r"^  (n\d+) \[label = \"(.*)\"\];$", text, re.MULTILINE)
    assert len(labels) == len(dict(labels)) == int(cells["leaky--fb"].arrays["bn/graph_nodes"][-1])
    assert "AccumulateGrad\\nconv.weight" in dict(labels).values()
    edges = re.findall(r"^  \"?([\w]+)\"? -> (n\d+);$", text, re.MULTILINE)
    assert {end for _, end in edges} == set(dict(labels))
    assert {start for start, _ in edges} - set(dict(labels)) == {"running_mean", "running_var"}


def test_what_is_drawn_are_the_nodes_and_bytes_themselves() -> None:
    places = Figure().subplots(1, 2)
    cell = CellResult("custom-graph", "leaky--fb", "torch", "torch", "ok")
    steps, nodes, size = np.array([0, 1, 2]), np.array([0, 7, 13]), np.array([0, 28, 52])
    graph.panels(places, {}, [graph.Growth(cell=cell, layer="bn", steps=steps, nodes=nodes, bytes=size)])
    assert [axes.lines[0].get_xdata().tolist() for axes in places] == [[0, 1, 2], [0, 1, 2]]
    assert [axes.lines[0].get_ydata().tolist() for axes in places] == [[0, 7, 13], [0, 28, 52]]


class Step:
    """Stands for an autograd node: what the drawing reads of one."""

    def __init__(self, *following: Step) -> None:
        self.next_functions = tuple((each, 0) for each in following)


def test_a_large_graph_is_cut_and_says_so() -> None:
    node = Step()
    for _ in range(torch_graph.MOST + 9):
        node = Step(node)
    text = torch_graph.dot('b"n', {"mean": node}, {})
    assert text.count("[label = ") == torch_graph.MOST
    assert f"cut after {torch_graph.MOST} nodes: 1 more edges" in text
    assert 'digraph "behind the buffers of b\\"n"' in text
    np.testing.assert_equal(text.count("{"), text.count("}"))
