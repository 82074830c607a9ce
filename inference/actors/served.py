"""How Serve runs and watches every deployment of ours: hosts and ingress alike."""

from typing import Any

from inference.settings import Settings

HEALTH_PERIOD_S, HEALTH_PATIENCE_S = 1.0, 10.0
"""Serve sees that a replica has died when it asks for its health, of itself every ten seconds."""
SERVED: dict[str, Any] = {
    "health_check_period_s": HEALTH_PERIOD_S,
    "health_check_timeout_s": HEALTH_PATIENCE_S,
}
"""Options of ``serve.deployment``."""


def on_device(settings: Settings) -> dict[str, Any]:
    """Options by which a host gets its part of a machine; Ray's CPUs are tickets, not cores."""
    return {"ray_actor_options": {"num_cpus": 0.1, "num_gpus": settings.gpu_share}}
