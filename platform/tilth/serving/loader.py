"""The worker's loop that brings fresh deployments into a slot ahead of their first prediction."""

import logging

from tilth.contract.messages import LoadRequest, ModelRef, ServedBy
from tilth.dataplane.grants import Grants
from tilth.dataplane.port import DataPlane, DataPlaneRefused
from tilth.serving.selectors import ServedModel, deployments_to_load
from tilth.serving.services import deployment_loaded

log = logging.getLogger(__name__)


def model_ref(served: ServedModel, grants: Grants) -> ModelRef:
    """How the data plane is told of a model."""
    folder = grants.read(served.path)
    return ModelRef(
        digest=served.digest, folder=folder, vertical=served.vertical, base_model=served.base_model,
        served_by=ServedBy(served.served_by),
    )  # fmt: skip


class Loader:
    """A courtesy: hosts load on demand too, so what is refused is logged and not asked again."""

    def __init__(self, plane: DataPlane, grants: Grants) -> None:
        self._plane = plane
        self._grants = grants

    def step(self) -> None:
        """Each fresh deployment once."""
        for tenant, deployment, served in deployments_to_load():
            try:
                self._plane.load(LoadRequest(model=model_ref(served, self._grants)))
            except DataPlaneRefused as error:
                log.error("the data plane refuses to load %s: %s", served.name, error.message)
            deployment_loaded(tenant=tenant, deployment=deployment)
