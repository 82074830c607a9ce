"""What answers the lines of a batch: a deployed model, or a base model's encoder alone; and what of it is billed."""

from dataclasses import dataclass
from uuid import UUID

from tilth.batches.states import Endpoint
from tilth.catalog.selectors import base_model_list
from tilth.contract.digest import base_digest
from tilth.contract.registry import vertical
from tilth.serving.selectors import ServedModel, served_model

EMBEDDED = "embedding.tokens"


@dataclass(frozen=True)
class Target:
    """Found anew for each chunk, since a model may be deleted meanwhile."""

    digest: str
    base_model: str
    unit: str
    served: ServedModel | None = None
    """None: the base model alone."""

    @property
    def host(self) -> str:
        """Which of the data plane's processes answers."""
        return f"{self.served.served_by if self.served else ''} {self.base_model}"


def target_find(*, tenant: UUID, endpoint: str, model: str) -> Target:
    """What answers under a name; raises NotFound, in the same words for another tenant's and for nobody's."""
    offer = next((offer for offer in base_model_list() if offer.id == model), None)
    if offer is not None and endpoint == Endpoint.EMBEDDINGS:
        return Target(base_digest(offer.id, offer.revision), offer.id, EMBEDDED)
    served = served_model(tenant=tenant, name=model)
    unit = EMBEDDED if endpoint == Endpoint.EMBEDDINGS else vertical(served.vertical).prediction_unit
    return Target(served.digest, served.base_model, unit, served)
