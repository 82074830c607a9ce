"""What the worker does for jobs that have ended, by procrastinate: arguments are ids only, each may be done twice."""

from uuid import UUID

from procrastinate import RetryStrategy
from procrastinate.contrib.django import app

from tilth.training import leftovers

AGAIN = RetryStrategy(max_attempts=8, exponential_wait=3)
"""Hours of tries, for lost infrastructure."""


@app.task(name="training.remove_checkpoints", retry=AGAIN, pass_context=False)
def remove_checkpoints(tenant: str, job: str) -> None:
    """Nobody goes on from them any more."""
    leftovers.remove_checkpoints(tenant=UUID(tenant), job=UUID(job))
