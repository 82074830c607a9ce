"""What the worker does for batches that have ended, by procrastinate: arguments are ids only, twice does no harm."""

from uuid import UUID

from procrastinate import RetryStrategy
from procrastinate.contrib.django import app

from tilth.batches import leftovers

AGAIN = RetryStrategy(max_attempts=8, exponential_wait=3)
"""Hours of tries, for lost infrastructure."""


@app.task(name="batches.remove_objects", retry=AGAIN, pass_context=False)
def remove_objects(tenant: str, batch: str) -> None:
    """The result files lie elsewhere."""
    leftovers.remove_objects(tenant=UUID(tenant), batch=UUID(batch))
