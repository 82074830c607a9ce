"""Looks at one uploaded file: format, rows, columns, each vertical's roles, what cannot be read. Runs in the child."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tilth.contract.vertical import Schema
from tilth.datasets.columns import missing
from tilth.datasets.features import lacks_features, match_all
from tilth.datasets.intake import sampled
from tilth.datasets.opening import open_table
from tilth.datasets.profile import Column, profile
from tilth.datasets.report import Problem, Problems
from tilth.datasets.splits import ways

PREVIEWED = 10
PREVIEWED_COLUMNS = 200


def inspect(path: Path, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    """The report of a file; raises Invalid for one that is no table."""
    table = open_table(path)
    columns = profile(table.columns, sampled(table))
    problems, rows = Problems(), 0
    preview: list[dict[str, Any]] = []
    for record in table.records():
        rows += 1
        if isinstance(record, Problem):
            problems.add(replace(record, unit=table.unit))
        elif len(preview) < PREVIEWED:
            cells = [None if cell is None else cell[:500] for cell in record.cells[:PREVIEWED_COLUMNS]]
            preview.append({"line": record.line, "cells": cells})
    return {
        **table.about(),
        "unit": table.unit,
        "rows": rows,
        "columns": [column.as_json() for column in columns[:PREVIEWED_COLUMNS]],
        "roles": {name: _roles(schema, columns) for name, schema in schemas.items()},
        "problems": problems.as_json(),
        "preview": preview,
    }


def _roles(schema: Schema, columns: list[Column]) -> dict[str, Any]:
    matches, features = match_all(schema, columns, None, None)
    lacking = [field.role for field in missing(schema, matches)]
    if (rest := schema.free_columns) and lacks_features(schema, features, [column.name for column in columns]):
        lacking.append(rest.role)
    return {
        "columns": [asdict(match) for match in matches],
        "features": [asdict(feature) for feature in features[:PREVIEWED_COLUMNS]],
        "missing": lacking,
        "split": ways(schema, matches, None)[0].why,
    }
