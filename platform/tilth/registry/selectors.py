"""Reads of fine-tuned models."""

from uuid import UUID

from tilth.catalog.selectors import base_model_list
from tilth.core.errors import NotFound
from tilth.core.scope import in_tenant
from tilth.datasets.models import DatasetVersion
from tilth.registry.models import Model


def is_base_model(name: str) -> bool:
    """Whether a base model on offer has that name."""
    return any(offer.id == name for offer in base_model_list())


@in_tenant
def model_list(*, tenant: UUID) -> list[Model]:
    """The tenant's models, newest first."""
    return list(Model.objects.filter(deleted_at=None).order_by("-id"))


@in_tenant
def learned_from(*, tenant: UUID, model: UUID) -> DatasetVersion:
    """The frozen rows behind a model."""
    version: DatasetVersion = Model.objects.select_related("version").get(id=model).version
    return version


@in_tenant
def model_get(*, tenant: UUID, name: str) -> Model:
    """By name; raises NotFound."""
    found: Model | None = Model.objects.filter(name=name, deleted_at=None).first()
    if found is None:
        raise NotFound(f"No such model: {name}", param="model", code="model_not_found")
    return found
