"""What the worker does for files, by procrastinate: arguments are ids only, each task may be done twice."""

from uuid import UUID

from procrastinate import RetryStrategy
from procrastinate.contrib.django import app

from tilth.core import storage
from tilth.core.deletions import deletion
from tilth.datasets import services, sweeping
from tilth.datasets.checking import check_run

AGAIN = RetryStrategy(max_attempts=8, exponential_wait=3)
"""Hours of tries, for lost infrastructure; what is wrong with a file raises nothing."""


@app.task(name="datasets.check_file", retry=AGAIN, pass_context=False)
def check_file(tenant: str, file: str) -> None:
    """Reports on an upload."""
    services.file_check(tenant=UUID(tenant), file=UUID(file))


@app.task(name="datasets.run_check", retry=AGAIN, pass_context=False)
def run_check(tenant: str, check: str) -> None:
    """Answers a check that was asked for."""
    check_run(tenant=UUID(tenant), check=UUID(check))


@app.task(name="datasets.remove_bytes", retry=AGAIN, pass_context=False)
def remove_bytes(tenant: str, file: str) -> None:
    """Removes what a deleted file leaves in storage; after the backup, if one runs."""
    with deletion():
        storage.delete_prefix(storage.path(UUID(tenant), "files", UUID(file).hex))


@app.task(name="datasets.remove_parts", retry=AGAIN, pass_context=False)
def remove_parts(tenant: str, upload: str) -> None:
    """Removes what a closed upload leaves in storage; the file made of it lies elsewhere."""
    with deletion():
        storage.delete_prefix(storage.path(UUID(tenant), "uploads", UUID(upload).hex))


@app.periodic(cron="7 * * * *")
@app.task(name="datasets.sweep", queueing_lock="datasets.sweep", retry=AGAIN, pass_context=False)
def sweep(timestamp: int) -> None:
    """Hourly: what has expired, and what killed processes left behind."""
    sweeping.sweep()
