"""What determines a frozen version: the same recipe is the same version, whoever asks however often."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any
from uuid import UUID

from tilth.contract.errors import VerticalError
from tilth.contract.registry import vertical
from tilth.contract.vertical import Schema
from tilth.core.errors import Invalid
from tilth.datasets.models import File

FORMAT = 3
"""Raised whenever the same files would become other rows."""


@dataclass(frozen=True)
class SplitOptions:
    """How rows are split, and whether bad ones are left out instead of refused."""

    seed: int = 0
    accept_bad_rows: bool = False
    split: str | None = None
    """One of ``How``, if it was said."""


@dataclass(frozen=True)
class Request:
    """Files to be checked, and frozen, under a mapping."""

    vertical: str
    training_file: UUID
    validation_file: UUID | None = None
    test_file: UUID | None = None
    columns: Mapping[str, str] | None = None
    """Role → column, as far as it is said."""
    options: SplitOptions = field(default_factory=SplitOptions)
    kinds: Mapping[str, str] | None = None
    """Free column → how it is read, as far as it is said."""

    def ids(self) -> dict[str, UUID]:
        """Parameter → file, for those that are given."""
        named = {name: getattr(self, name) for name in SPLIT_OF}
        return {name: file for name, file in named.items() if file is not None}


SPLIT_OF: dict[str, str | None] = {"training_file": None, "validation_file": "validation", "test_file": "test"}
"""Parameter → split; None: the file is split, where it does not say the split itself."""


def schema_of(name: str) -> Schema:
    """The schema of a vertical; raises Invalid naming those that are installed."""
    try:
        return vertical(name).schema_
    except VerticalError as error:
        raise Invalid(f"{error}.", param="vertical", code="unknown_vertical") from None


def recipe_of(request: Request, files: Mapping[str, File]) -> str:
    """sha256 over everything that the frozen rows depend on."""
    return _hash(
        {
            "format": FORMAT,
            "schema": schema_of(request.vertical).model_dump(mode="json"),
            "vertical": request.vertical,
            "files": {name: file.sha256 for name, file in files.items()},
            "columns": dict(request.columns or {}),
            "options": asdict(request.options),
            **({"kinds": dict(request.kinds)} if request.kinds else {}),
        }
    )


def check_recipe(request: Request, files: Mapping[str, File]) -> str:
    """The same, for these very files: an equal file that was deleted does not answer for another."""
    return _hash({"recipe": recipe_of(request, files), "ids": [file.id.hex for file in files.values()]})


def sources(request: Request, files: Mapping[str, File]) -> Iterator[dict[str, Any]]:
    """Each file as the child is told of it, still without a path."""
    names = [file.filename for file in files.values()]
    for param, file in files.items():
        name = file.filename if names.count(file.filename) == 1 else f"{param} {file.filename}"
        yield {"name": name, "split": SPLIT_OF[param], "param": param}


def wish(request: Request) -> dict[str, Any]:
    """What the child is told beside the files."""
    schema = schema_of(request.vertical).model_dump(mode="json")
    columns = dict(request.columns) if request.columns else None
    kinds = dict(request.kinds) if request.kinds else None
    return {"schema": schema, "columns": columns, "kinds": kinds, **asdict(request.options)}


def _hash(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
