"""The ingress of the data plane (Ray Serve): jobs, predictions, health; ``python -m inference.app`` deploys it."""

import logging
import signal
import threading
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response
from tilth.contract.registry import verticals

from inference import ingress
from inference.actors.host import Host
from inference.actors.served import SERVED
from inference.actors.small_host import SmallHost
from inference.actors.trainer import NAMESPACE, trainer_pool
from inference.settings import Settings, settings
from inference.storage import load_verify_key

log = logging.getLogger(__name__)


@serve.deployment(max_ongoing_requests=2048, **SERVED)
class Ingress:
    """The ingress as Serve runs it."""

    def __init__(self, configured: Settings, small: Any, **hosts: Any) -> None:
        named = {name.replace("__", "-"): host for name, host in hosts.items()}
        key = load_verify_key(configured.verify_key)
        self._ingress = ingress.Ingress(key, trainer_pool(configured), named, small)

    async def __call__(self, request: Request) -> Response:
        """Answers one request."""
        return await self._ingress.answer(request)


def deploy(configured: Settings) -> None:
    """Starts Serve's proxy and deploys hosts and ingress; doing it again replaces what has changed."""
    serve.start(proxy_location="HeadOnly", http_options={"host": configured.host, "port": configured.port})
    serve.run(
        Ingress.bind(configured, SmallHost.bind(configured), **_hosts(configured)),  # type: ignore[attr-defined]
        name="tilth",
        route_prefix="/",
    )


def _hosts(configured: Settings) -> dict[str, Any]:
    """One for each base; offers of the same weights share it."""
    bound: dict[tuple[str, str], Any] = {}
    hosts = {}
    for offer in (offer for face in verticals().values() for offer in face.base_models):
        weights = (offer.source, offer.revision)
        if weights not in bound:
            bound[weights] = Host.options(name=f"host-{offer.id}").bind(offer, configured)  # type: ignore[attr-defined]
        hosts[offer.id.replace("-", "__")] = bound[weights]
    return hosts


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
