"""What the worker does for jobs, and for tasks of workers that died, by procrastinate; each may be done twice."""

from uuid import UUID

from procrastinate import JobContext, RetryStrategy
from procrastinate.contrib.django import app

from tilth.training import leftovers
from tilth.training.queue import jobs_held_for
from tilth.training.services import job_hold_renew

AGAIN = RetryStrategy(max_attempts=8, exponential_wait=3)
"""Hours of tries, for lost infrastructure."""


@app.task(name="training.remove_checkpoints", retry=AGAIN, pass_context=False)
def remove_checkpoints(tenant: str, job: str) -> None:
    """Nobody goes on from them any more."""
    leftovers.remove_checkpoints(tenant=UUID(tenant), job=UUID(job))


@app.periodic(cron="17 * * * *")
@app.task(name="training.renew_holds", queueing_lock="training.renew_holds", retry=AGAIN, pass_context=False)
def renew_holds(timestamp: int) -> None:
    """Hourly: what is held for jobs that have not ended."""
    for tenant, job in jobs_held_for():
        job_hold_renew(tenant=tenant, job=job)


@app.periodic(cron="*/5 * * * *")
@app.task(name="training.revive_tasks", queueing_lock="training.revive_tasks", pass_context=True)
async def revive_tasks(context: JobContext, timestamp: int) -> None:
    """Tasks that a killed worker was at are done by another: procrastinate itself leaves them for ever."""
    manager = context.app.job_manager
    for task in await manager.get_stalled_jobs():
        await manager.retry_job(task)
