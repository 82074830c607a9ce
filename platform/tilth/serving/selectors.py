"""Reads of deployments."""

from dataclasses import dataclass
from uuid import UUID

from tilth.core.errors import NotFound
from tilth.core.scope import in_tenant
from tilth.registry.models import Model
from tilth.serving.models import Deployment


@dataclass(frozen=True)
class ServedModel:
    """What must answer under a name."""

    model: UUID
    name: str
    digest: str
    path: str
    """Folder below TILTH_ARTIFACTS, ends with a slash."""
    vertical: str
    base_model: str
    served_by: str


def served(name: str, model: Model) -> ServedModel:
    """The one mapper from rows."""
    return ServedModel(
        model=model.id, name=name, digest=model.digest, path=model.path, vertical=model.vertical,
        base_model=model.base_model, served_by=model.served_by,
    )  # fmt: skip


@in_tenant
def served_model(*, tenant: UUID, name: str) -> ServedModel:
    """What answers under a name; raises NotFound."""
    found = Deployment.objects.select_related("model").filter(name=name, deleted_at=None).first()
    if found is None:
        raise NotFound(f"No such model: {name}", param="model", code="model_not_found")
    return served(name, found.model)


@in_tenant
def deployment_list(*, tenant: UUID) -> list[Deployment]:
    """Live deployments with their models, newest first."""
    return list(Deployment.objects.select_related("model").filter(deleted_at=None).order_by("-id"))


def deployments_to_load() -> list[tuple[UUID, UUID, ServedModel]]:
    """(tenant, deployment, model) of every tenant's live deployments that nobody has loaded yet."""
    found = Deployment.unscoped.using("system").filter(loaded_at=None, deleted_at=None).order_by("id")
    models = Model.unscoped.using("system").in_bulk([deployment.model_id for deployment in found])
    return [(d.tenant_id, d.id, served(d.name, models[d.model_id])) for d in found]
