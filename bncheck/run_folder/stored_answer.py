"""``answer.json`` as it may lie in a run folder: types and lengths that are checked when it is read."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from bncheck.run_folder.answer import MOST


class StoredRow(BaseModel):
    model_config = ConfigDict(strict=False, extra="ignore")
    layer: str = Field(max_length=1000)
    cells: tuple[str, ...] = Field(max_length=64)
    mark: str = Field(default="", max_length=64)


class StoredAnswer(BaseModel):
    model_config = ConfigDict(strict=False, extra="ignore")
    verb: str = Field(max_length=64)
    subject: str = Field(max_length=4000)
    headline: str = Field(max_length=4000)
    columns: tuple[str, ...] = Field(default=(), max_length=64)
    rows: tuple[StoredRow, ...] = Field(default=(), max_length=MOST)
    notes: tuple[str, ...] = Field(default=(), max_length=1000)
    each: str = Field(default="layer", max_length=64)
