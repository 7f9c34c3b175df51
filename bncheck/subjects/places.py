"""Findings about how a model runs its normalising layers: in training mode while it is evaluated, or where nothing
that goes through its modules meets them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bncheck.diagnosis.rules.layer_names import listed as several
from bncheck.diagnosis.rules.layer_names import verb
from bncheck.finding import Finding
from bncheck.life import LayerLife, Life
from bncheck.report.plain_text import plural


@dataclass(frozen=True, slots=True)
class Words:
    """How people of a framework set the mode of a model and keep its layers: ``reach`` is what goes through them."""

    modes: str
    reach: str
    keep: str


WORDS: Mapping[str, Words] = {
    "torch": Words(
        modes="leave modes to train() and eval() of the whole model; train() has no place in forward()",
        reach="eval(), to(), parameters() and state_dict()",
        keep="keep layers as attributes of the module, or in nn.ModuleList or nn.ModuleDict",
    ),
    "paddle": Words(
        modes="leave modes to train() and eval() of the whole model; train() has no place in forward()",
        reach="eval(), parameters() and state_dict()",
        keep="keep layers as attributes of the layer, or in nn.LayerList or nn.LayerDict",
    ),
    "flax": Words(
        modes="leave modes to train() and eval() of the whole model; train() and use_running_average=False have no "
        "place in __call__()",
        reach="eval(), nnx.state() and the optimiser",
        keep="keep modules as attributes, or in nnx.List or nnx.Dict",
    ),
    "mxnet": Words(
        modes="leave the mode to autograd.record() and predict_mode(); train_mode() has no place in forward()",
        reach="initialize(), collect_params() and save_parameters()",
        keep="keep blocks as attributes of the block, or in nn.Sequential",
    ),
    "keras": Words(
        modes="hand on what call() gets: training=training, and not training=True",
        reach="compile(), fit() and save_weights()",
        keep="keep layers as attributes of the model, or in a list or dict of it",
    ),
}
NEVER_GLOBAL = "leave use_global_stats at None: eval() then normalises with the running statistics"


def training_in_eval(said: Mapping[str, Any], life: Life, target: str) -> Iterator[Finding]:
    """Layers that the model itself runs in training mode while the whole of it is evaluated."""
    ran = sorted(life.layers, key=lambda layer: min((span.first_index for span in layer.spans), default=0))
    found = {layer.name: rows for layer in ran if len(rows := trained_in_eval(layer, life))}
    always = {str(each["name"]): str(each.get("always") or "") for each in said["layers"]}
    for why in sorted({always.get(name, "") for name in found}):
        layers = [name for name in found if always.get(name, "") == why]
        moved = any(moves(life.layer(name), found[name]) for name in layers)
        yield leak(layers, why, moved, life.framework, target)


def leak(layers: Sequence[str], why: str, moved: bool, framework: str, target: str) -> Finding:
    ending = ", and moves the running statistics" if moved else ""
    because = (
        f"{several(layers)} {verb(layers, 'was', 'were')} made with {why}: eval normalises with the batch{ending}."
        if why
        else f"The model runs {several(layers)} in training mode while it is evaluated: eval normalises with the "
        f"batch{ending}."
    )
    return Finding(
        code="BN111" if why else "BN401",
        cause="normaliser-source" if why else "mode-leak",
        kind="hazard",
        title=f"{because} A sample's output depends on the samples next to it.",
        targets=(target,),
        scenario="check",
        case="",
        layer=layers[0],
        quantity="output" if why else "training",
        evidence={"layers": len(layers)},
        advice=NEVER_GLOBAL if why else WORDS[framework].modes,
        accounts=tuple((name, quantity) for name in layers for quantity in ("output", "training", "running_mean")),
    )


def trained_in_eval(layer: LayerLife, life: Life) -> np.ndarray:
    """Places of its forwards in training mode, within the phases of evaluation."""
    training, index = layer.get("training"), layer.get("index")
    phases = [(each.index, str(each.detail.get("name", ""))) for each in life.happenings if each.what == "phase"]
    if training is None or index is None or not phases:
        return np.array([], dtype=np.int64)
    starts = np.array([start for start, _ in phases])
    evaluating = np.array([name.startswith("eval") for _, name in phases])
    in_phase = np.searchsorted(starts, index, side="right") - 1
    return np.flatnonzero((training == 1) & evaluating[in_phase] & (in_phase >= 0))


def moves(layer: LayerLife, rows: np.ndarray) -> bool:
    before, after = layer.get("mean_before"), layer.get("mean_after")
    return before is not None and after is not None and bool((before[rows] != after[rows]).any())


def aside(said: Mapping[str, Any], target: str, framework: str) -> Iterator[Finding]:
    """Layers that run and that the model does not know it has."""
    layers = [str(each["name"]) for each in said.get("aside") or ()]
    if layers:
        words, them = WORDS[framework], verb(layers, "it", "them")
        yield Finding(
            code="BN410",
            cause="unregistered",
            kind="hazard",
            title=f"The model does not know {several(layers)}: {verb(layers, 'it is', 'they are')} kept in a plain "
            f"list, a dict or an object, and {words.reach} do not reach {them}.",
            targets=(target,),
            scenario="check",
            case="",
            layer=layers[0],
            quantity="training",
            evidence={"layers": plural(len(layers), "layer")},
            advice=words.keep,
            accounts=tuple((name, "training") for name in layers[1:]),
        )
