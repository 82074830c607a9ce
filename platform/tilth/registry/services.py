"""Writes of fine-tuned models."""

from typing import Any, Protocol
from uuid import UUID

from tilth.catalog.selectors import base_model_get
from tilth.contract.digest import MANIFEST
from tilth.contract.messages import TrainingOptions
from tilth.core.clock import now
from tilth.core.errors import Invalid, NotFound
from tilth.core.scope import in_tenant
from tilth.registry.folders import FolderRefused, VerifiedFolder
from tilth.registry.models import Model
from tilth.registry.names import model_name
from tilth.registry.selectors import is_base_model
from tilth.serving.services import deployments_end
from tilth.tenants.principal import Principal
from tilth.tenants.selectors import organisation_get
from tilth.tenants.services import audit


class Lineage(Protocol):
    """What a model keeps of the job that made it."""

    id: UUID
    suffix: str
    vertical: str
    base_model: str
    options: dict[str, Any]
    version: Any


@in_tenant
def model_create(*, tenant: UUID, job: Lineage, folder: VerifiedFolder, facts: dict[str, Any]) -> Model:
    """The one model of a job; ``facts`` are the trainer's metrics and report. Raises FolderRefused.

    Its name has the base that the job was asked for, as from the first checkpoint on; ``base_model`` is the one it is
    served on.
    """
    base = _base_model(job, folder)
    organisation = organisation_get(tenant=tenant).slug
    name = model_name(base_model=job.base_model, organisation=organisation, suffix=job.suffix, job=job.id)
    made: Model = Model.objects.create(
        name=name, job_id=job.id, version_id=job.version.id, version_sha256=job.version.sha256, vertical=job.vertical,
        base_model=base, base_revision=base_model_get(base).revision, path=folder.path,
        digest=folder.digest, rung=str(folder.manifest.get("rung", "")), metrics=dict(facts.get("metrics", {})),
        served_by=folder.served_by, report=dict(facts.get("report", {})), card=folder.card,
    )  # fmt: skip
    return made


def _base_model(job: Lineage, folder: VerifiedFolder) -> str:
    """The base that the folder was learned on: the job's own, or one that its search was to try."""
    found = str(folder.manifest.get("base_model", job.base_model))
    allowed = TrainingOptions.model_validate(job.options).bases(job.base_model)
    if found not in allowed:
        raise FolderRefused(f"{folder.path}{MANIFEST} says base_model {found!r}; the job's are {', '.join(allowed)}")
    return found


@in_tenant
def model_delete(*, tenant: UUID, by: Principal, name: str) -> None:
    """Takes a model and its deployments away; base models on offer are not the customer's to delete."""
    if is_base_model(name):
        raise Invalid(
            f"{name} is a base model on offer; only your own fine-tuned models can be deleted.", param="model"
        )
    found = Model.locked(name=name, deleted_at=None)
    if found is None:
        raise NotFound(f"No such model: {name}", param="model", code="model_not_found")
    found.deleted_at = now()
    found.save(update_fields=["deleted_at"])
    deployments_end(tenant=tenant, model=found.id)
    audit(by.actor, "model.delete", name)
