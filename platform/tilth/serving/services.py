"""Writes of deployments."""

from uuid import UUID

from tilth.core.clock import now
from tilth.core.errors import Invalid, NotFound
from tilth.core.ids import public
from tilth.core.scope import in_tenant
from tilth.core.wake import wake_worker
from tilth.registry.models import Model
from tilth.serving.models import Deployment

OWN = "ft:"
"""A job gives its model a name that begins so: nobody else may have taken it when the job ends."""


@in_tenant
def deployment_create(*, tenant: UUID, name: str, model: UUID, deterministic: bool = False) -> Deployment:
    """A model answers under a name, at once; asking for what is there already changes nothing."""
    found = Model.locked(id=model, deleted_at=None)  # whoever deletes it ends what is deployed before
    if found is None:
        raise NotFound.of("model", public("ftm", model))
    if name.startswith(OWN) and name != found.name:
        raise Invalid(f"Names that begin with {OWN!r} are models' own; choose another.", param="name")
    standing: Deployment | None = Deployment.locked(name=name, deleted_at=None)
    if standing is not None and standing.model_id != model:
        raise Invalid(f"The name {name!r} is taken by another model; delete that deployment first.", param="name")
    if standing is not None and standing.deterministic != deterministic:
        has = f"deterministic={standing.deterministic}"
        raise Invalid(f"{name!r} answers with {has}; delete that deployment first.", param="deterministic")
    wake_worker()
    made: Deployment = standing or Deployment.objects.create(name=name, model=found, deterministic=deterministic)
    made.model = found  # whoever shows it has no scope to read the model in
    return made


@in_tenant
def deployment_loaded(*, tenant: UUID, deployment: UUID) -> None:
    """The worker has asked for it once."""
    Deployment.objects.filter(id=deployment).update(loaded_at=now())


@in_tenant
def deployment_delete(*, tenant: UUID, deployment: UUID) -> None:
    """The name answers no more; the model stays."""
    found = Deployment.locked(id=deployment, deleted_at=None)
    if found is None:
        raise NotFound.of("deployment", public("dep", deployment))
    found.deleted_at = now()
    found.save(update_fields=["deleted_at"])


@in_tenant
def deployments_end(*, tenant: UUID, model: UUID) -> None:
    """All of a model's deployments, since it is deleted."""
    Deployment.objects.filter(model_id=model, deleted_at=None).update(deleted_at=now())
