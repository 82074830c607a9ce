"""The ingress of the data plane (Ray Serve): jobs, predictions, health; ``python -m inference.app`` deploys it."""

import logging
import signal
import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from starlette.requests import Request
from starlette.responses import Response
from tilth.contract.registry import verticals

from inference import ingress
from inference.actors.host import Host
from inference.actors.served import HEALTH_PATIENCE_S, SERVED
from inference.actors.small_host import SmallHost
from inference.actors.trainer import NAMESPACE, trainer_pool
from inference.replicas import Replica, Replicas
from inference.settings import Settings, settings
from inference.storage import load_verify_key

DIED = (RayActorError, DeploymentUnavailableError)
Handles = dict[str, Any]
"""By the names of the replicas: Serve's handles, or what becomes them where it is bound."""


@serve.deployment(max_ongoing_requests=2048, **SERVED)
class Ingress:
    """The ingress as Serve runs it."""

    def __init__(self, configured: Settings, hosts: Mapping[str, Handles], small: Handles) -> None:
        key = load_verify_key(configured.verify_key)
        apart = {tuple(handles): handles for handles in hosts.values()}
        shared = {names: _watched(handles) for names, handles in apart.items()}
        named = {base: shared[tuple(handles)] for base, handles in hosts.items()}
        self._ingress = ingress.Ingress(key, trainer_pool(configured), named, _watched(small))

    async def __call__(self, request: Request) -> Response:
        """Answers one request."""
        return await self._ingress.answer(request)


def deploy(configured: Settings) -> None:
    """Starts Serve's proxy and deploys hosts and ingress; doing it again replaces what has changed."""
    serve.start(proxy_location="HeadOnly", http_options={"host": configured.host, "port": configured.port})
    small = _replicas(SmallHost, "small-host", configured.small_host_replicas, configured)
    app = Ingress.bind(configured, _hosts(configured), small)  # type: ignore[attr-defined]
    serve.run(app, name="tilth", route_prefix="/")


def _hosts(configured: Settings) -> dict[str, Handles]:
    """Replicas for each base; offers of the same weights share them."""
    bound: dict[tuple[str, str], Handles] = {}
    hosts = {}
    for offer in (offer for face in verticals().values() for offer in face.base_models):
        weights = (offer.source, offer.revision)
        if weights not in bound:
            bound[weights] = _replicas(Host, f"host-{offer.id}", configured.host_replicas, offer, configured)
        hosts[offer.id] = bound[weights]
    return hosts


def _replicas(kind: Any, name: str, count: int, *args: Any) -> Handles:
    """Each a deployment of its own, so that it can be addressed; all in the one app, whose ingress is the only door."""
    names = [f"{name}-{number}" for number in range(count)]
    return {each: kind.options(name=each).bind(*args) for each in names}


def _watched(handles: Handles) -> Replicas:
    made = Replicas(Replica(name, handle, DIED) for name, handle in handles.items())
    made.watch(HEALTH_PATIENCE_S)
    return made


def main() -> None:
    """Deploys, says so, and stays until it is told to stop."""
    logging.basicConfig(level=logging.INFO)
    configured = settings()
    stopped = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopped.set())
    ray.init(address=configured.ray_address, namespace=NAMESPACE, log_to_driver=False)
    deploy(configured)
    print(f"data plane ready at http://{configured.host}:{configured.port}", flush=True)
    stopped.wait()
    serve.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
