"""The data plane's HTTP process: ``python -m inference.entry`` is the ingress; it finds hosts and pool through Ray."""

import logging
import signal
import time
from typing import Any

import ray
import uvicorn
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from inference.actors.served import HEALTH_PATIENCE_S
from inference.actors.trainer import NAMESPACE, trainer_pool
from inference.app import SMALL, hosts, replicas
from inference.ingress import Ingress
from inference.replicas import Replica, Replicas
from inference.settings import Settings, settings
from inference.storage import load_verify_key

DIED = (RayActorError, DeploymentUnavailableError)
GRACE_S = 5
"""For requests under way when it is told to stop."""
LOOK_S = 0.2
KEEP_S = 90
"""An idle connection of the gateway's is kept."""


class Entry:
    """The ingress as uvicorn calls it."""

    def __init__(self, configured: Settings) -> None:
        found = {host: _found(host, configured) for host in {*hosts().values(), SMALL}}
        named = {base: found[host] for base, host in hosts().items()}
        key = load_verify_key(configured.verify_key)
        self._ingress = Ingress(key, trainer_pool(configured), named, found[SMALL])
        self._found = found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; begins to look after the replicas when the server starts."""
        if scope["type"] == "http":
            answer = await self._ingress.answer(Request(scope, receive))
            await answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            for each in self._found.values():
                each.watch(HEALTH_PATIENCE_S)
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})


def _found(host: str, configured: Settings) -> Replicas:
    return Replicas(Replica(name, _handle(name), DIED) for name in replicas(host, configured))


def _handle(name: str) -> Any:
    """Of an app that is being deployed beside: jobs need not wait until hosts have read their models."""
    while True:
        try:
            return serve.get_app_handle(name)
        except RayServeException:  # Serve is not started yet, or does not know the app
            time.sleep(LOOK_S)


def main() -> None:
    """Listens until it is told to stop."""
    logging.basicConfig(level=logging.INFO)
    configured = settings()
    ray.init(address=configured.ray_address, namespace=NAMESPACE, log_to_driver=False)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: None)  # uvicorn raises it again when it has ended
    uvicorn.run(
        Entry(configured), host=configured.host, port=configured.port, loop="uvloop", http="httptools", ws="none",
        lifespan="on", access_log=False, timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_S,
    )  # fmt: skip


if __name__ == "__main__":
    main()
