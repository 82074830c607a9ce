"""The hosts of the data plane (Ray Serve): ``python -m inference.app`` deploys them and stays."""

import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray import serve
from tilth.contract.registry import verticals

from inference.actors.host import Host
from inference.actors.served import on_device
from inference.actors.small_host import SmallHost
from inference.actors.trainer import NAMESPACE
from inference.settings import Settings, settings

log = logging.getLogger(__name__)

OURS = "tilth-"
"""Begins the names of our apps, in a cluster that others may use, too."""
SMALL = "small-host"


def deploy(configured: Settings) -> None:
    """One app for each replica, and no proxy of Serve's; doing it again replaces what has changed."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if configured.gpu_share and not there.get("GPU"):
        log.warning(
            "TILTH_GPU_SHARE is %s, and no node has a GPU: hosts and trainers wait for one", configured.gpu_share
        )
    serve.start(proxy_location="Disabled")
    apps = dict(_apps(configured))
    for name in serve.status().applications:
        if name.startswith(OURS) and name not in apps:
            serve.delete(name)
    serve.run_many([serve.RunTarget(app, name, route_prefix=None) for name, app in apps.items()])


def hosts() -> dict[str, str]:
    """Base → its host; offers of the same weights share one."""
    named: dict[tuple[str, str], str] = {}
    offers = (offer for face in verticals().values() for offer in face.base_models)
    return {offer.id: named.setdefault((offer.source, offer.revision), f"host-{offer.id}") for offer in offers}


def replicas(host: str, configured: Settings) -> list[str]:
    """The apps that are a host's replicas."""
    count = configured.small_host_replicas if host == SMALL else configured.host_replicas
    return [f"{OURS}{host}-{number}" for number in range(count)]


def _apps(configured: Settings) -> Iterator[tuple[str, Any]]:
    """Name → what is to run by it, for every replica of every host."""
    offers = {f"host-{offer.id}": offer for face in verticals().values() for offer in face.base_models}
    for host in sorted({*hosts().values(), SMALL}):
        for name in replicas(host, configured):
            deployment: Any = SmallHost if host == SMALL else Host
            given = [] if host == SMALL else [offers[host]]
            yield name, deployment.options(**on_device(configured)).bind(*given, configured)


def main() -> None:
    """Deploys, says so, and stays until it is told to stop."""
    logging.basicConfig(level=logging.INFO)
    configured = settings()
    stopped = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopped.set())
    ray.init(address=configured.ray_address, namespace=NAMESPACE, log_to_driver=False)
    deploy(configured)
    print("hosts deployed", flush=True)
    stopped.wait()
    serve.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
