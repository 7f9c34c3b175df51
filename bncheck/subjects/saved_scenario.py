"""``--save-scenario FILE``: what ``check`` played of a model or an ONNX file, as a scenario for ``bncheck run``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bncheck.errors import UsageError
from bncheck.subjects.asked import Asked
from bncheck.subjects.thing import Thing


def save_model(asked: Asked, found: Mapping[str, Any], path: Path) -> str:
    """Write it, and return the command that plays it again. UsageError where a scenario has no words for it."""
    for word, value in (("--weights", asked.weights), ("--data", asked.data)):
        if value is not None:
            raise UsageError(
                f"A scenario makes its numbers up: it has no key for {word}.",
                f"Leave out --save-scenario, or load them in the function that builds the model, without {word}.",
            )
    shapes = [each["shape"] for each in found["input"]["shapes"] if str(each["dtype"]).startswith("float")]
    if len(shapes) != 1 or len(found["input"]["shapes"]) != 1:
        raise UsageError(
            f"{asked.thing.text} takes other inputs than one of floating-point numbers, and a scenario gives one.",
            "Leave out --save-scenario.",
        )
    if asked.thing.path is None:
        package, name = asked.thing.module, asked.thing.name
        raise UsageError(
            f"A scenario names a model by its file, and {asked.thing.text} lives in a package.",
            f"Write a file of one line, from {package} import {name}, and check that: bncheck check FILE.py:{name}",
        )
    model = f"{asked.thing.path}:{asked.thing.name}"
    network = [f"model = {json.dumps(beside(asked.thing.path, path) + ':' + asked.thing.name)}"]
    if asked.given:
        network.append(f"arguments = {table(asked.given)}")
    lines = [
        *network,
        "",
        "[input]",
        f"shape = {json.dumps(shapes[0])}",
        "",
        "[program]",
        *program(shapes[0], asked.steps),
    ]
    write(path, asked.thing, "torch", lines)
    return f"bncheck run {path}" + ("" if is_beside(asked.thing.path, path) else f" --set network.model={model}")


def save_file(asked: Asked, shape: Sequence[int], dtype: str, path: Path) -> str:
    file = asked.thing.path
    assert file is not None
    lines = [
        f"file = {json.dumps(beside(file, path))}",
        "",
        "[input]",
        f"shape = {json.dumps(list(shape))}",
        f"dtype = {json.dumps(dtype)}",
        "mean = 0.5",
        "",
        "[program]",
        'first = ["forward", "eval_forward"]',
        'events = ["train_forward"]',
        "repeat = 3",
        'then = ["eval_forward"]',
        "",
        "[[expect]]",
        'between = ["onnxruntime", "reference"]',
        "agree = true",
    ]
    write(path, asked.thing, "reference onnxruntime", lines)
    return f"bncheck run {path}" + ("" if is_beside(file, path) else f" --set network.file={file}")


def write(path: Path, thing: Thing, targets: str, network: Sequence[str]) -> None:
    head = [
        f"title = {json.dumps(f'What bncheck check played of {thing.text}')}",
        f"why = {json.dumps(f'Written by: bncheck check {thing.text} --save-scenario {path.name}')}",
        f"targets = {json.dumps(targets.split())}",
        "",
        "[network]",
    ]
    path.write_text("\n".join([*head, *network]) + "\n", encoding="utf-8")


def program(shape: Sequence[int], steps: int) -> list[str]:
    """Eval, eval in other batches, steps of training, eval: as ``worker/subject/model.py`` plays it."""
    first: list[Any] = ["eval_forward"]
    if shape[0] > 1:
        first.append({"event": "eval_in_batches", "sizes": [1, shape[0]], "samples": shape[0]})
    lines = [f"first = [{', '.join(json.dumps(each) if isinstance(each, str) else table(each) for each in first)}]"]
    if steps:
        lines += ['events = ["train_forward", "backward"]', f"repeat = {steps}"]
    return [*lines, 'then = ["eval_forward"]']


def table(values: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items()) + " }"


def is_beside(file: Path, scenario: Path) -> bool:
    """A scenario may name what lies beside it or below; what lies elsewhere only the command line may."""
    return file.absolute().is_relative_to(scenario.absolute().parent)


def beside(file: Path, scenario: Path) -> str:
    return str(file.absolute().relative_to(scenario.absolute().parent)) if is_beside(file, scenario) else file.name
