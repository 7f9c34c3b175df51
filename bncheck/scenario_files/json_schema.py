"""The JSON Schema of scenario files, for editors: made from the models that check them, with the docs' sentences.

It takes whatever bncheck takes. What concerns several keys at once (shapes, programs) only bncheck checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bncheck.finding import CAUSES
from bncheck.scenario import COPIES, DTYPES, FILLS, LAYER_TYPES, OP_NAMES, ORACLES, VIEWS
from bncheck.scenario_files.keys import TABLES
from bncheck.scenario_files.schema import STATES, Document

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NUMBERS = {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}, "minItems": 1}]}
PAIR = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}, "maxItems": 2, "minItems": 1}]}
DEFAULT = {"anyOf": [{"type": "number", "minimum": 0}, {"const": "default"}]}
INITIAL = {"anyOf": [*NUMBERS["anyOf"], {"const": "framework"}]}


def words(*given: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(given)}


# (model, key) → what the models check by functions, which have no schema of their own.
CHECKED: Mapping[tuple[str, str], Mapping[str, Any]] = {
    **{("InitialTable", name): INITIAL for name in ("running_mean", "running_var", "gamma", "beta")},
    ("LayerTable", "type"): words(*LAYER_TYPES),
    ("LayerTable", "batch_weight"): DEFAULT,
    ("LayerTable", "eps"): DEFAULT,
    ("LayerTable", "averaging"): words("exponential", "cumulative"),
    ("LayerTable", "initial"): {"anyOf": [{"$ref": "#/$defs/InitialTable"}, {"const": "framework"}]},
    ("LayerTable", "kernel"): PAIR,
    ("LayerTable", "stride"): PAIR,
    ("LayerTable", "padding"): PAIR,
    ("LayerTable", "bias"): words("uniform", "zeros"),
    ("NetworkTable", "parts"): {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 8}, {"const": "complex"}]},
    ("NetworkTable", "oracle"): words(*ORACLES),
    ("NetworkTable", "copied"): words(*COPIES),
    ("InputTable", "fill"): words(*FILLS),
    ("InputTable", "value"): {"type": "number"},
    ("InputTable", "mean"): NUMBERS,
    ("InputTable", "std"): NUMBERS,
    ("InputTable", "batches"): words("same", "distinct"),
    ("InputTable", "dtype"): words(*DTYPES),
    ("InputTable", "poison"): words("nan", "inf", "-inf"),
    ("InputTable", "gradient"): words("ones", "normal"),
    ("InputTable", "shifts"): {"type": "array", "items": {"type": "number"}},
    ("InputTable", "view"): words(*VIEWS),
    ("EventTable", "event"): words(*OP_NAMES),
    ("EventTable", "training"): {"anyOf": [{"type": "boolean"}, words("eval", "preserve", "training")]},
    ("EventTable", "drop"): {"type": "array", "items": words(*STATES)},
    **{
        ("ProgramTable", name): {
            "type": "array",
            "items": {"anyOf": [words(*OP_NAMES), {"$ref": "#/$defs/EventTable"}]},
        }
        for name in ("first", "events", "then")
    },
    ("ToleranceTable", "rtol"): {"type": "number", "minimum": 0},
    ("ToleranceTable", "atol"): {"type": "number", "minimum": 0},
    ("ExpectTable", "cause"): words(*CAUSES),
    ("ExpectTable", "causes"): {"type": "array", "items": words(*CAUSES)},
    ("Document", "dtype"): words(*DTYPES),
}


def json_schema() -> dict[str, Any]:
    """The whole schema; its tables stand under ``$defs``."""
    made = Document.model_json_schema()
    tables = {"Document": made, **made["$defs"]}
    told = {model.__name__: sentences for model, (_, sentences) in TABLES.items()}
    for name, table in tables.items():
        for key, found in table.get("properties", {}).items():
            known = CHECKED.get((name, key))
            kept = dict(known) if known is not None else without_null(found)
            said = told.get(name, {}).get(key, "")
            table["properties"][key] = {**kept, **({"description": said} if said else {})}
        table.pop("description", None)
    made["title"] = "bncheck scenario"
    return {"$schema": DIALECT, **made}


def without_null(found: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null, and a default says nothing that a reader could write."""
    kept = {key: value for key, value in found.items() if key not in ("default", "title")}
    choices = [one for one in kept.get("anyOf", ()) if one != {"type": "null"}]
    if not choices:
        return kept
    del kept["anyOf"]
    return {**kept, **choices[0]} if len(choices) == 1 else {**kept, "anyOf": choices}
