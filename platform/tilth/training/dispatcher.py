"""Gives queued jobs to free trainers, customers in turn; a lease is written before the data plane is told."""

import logging
from typing import Any
from uuid import UUID

from tilth.core.crash import crash_point
from tilth.dataplane.grants import Grants
from tilth.dataplane.port import DataPlane, DataPlaneRefused, NoTrainerFree
from tilth.training.attempts import StaleAttempt, attempt_acknowledged, attempt_lease
from tilth.training.endings import attempt_failed, attempt_lost, attempt_released
from tilth.training.queue import Attempt, active_attempts, next_queued
from tilth.training.specs import job_spec

log = logging.getLogger(__name__)


class Dispatcher:
    """One step leases as many jobs as there are free trainers; DataPlaneDown leaves leases to be told later."""

    def __init__(self, plane: DataPlane, grants: Grants) -> None:
        self._plane = plane
        self._grants = grants

    def step(self) -> None:
        """First what an earlier step, or an earlier process, leased and could not tell."""
        for attempt in active_attempts():
            if not attempt.dispatched:
                self._tell(attempt)
        if next_queued() is None:
            return
        health = self._plane.health()
        for _ in range(health.trainers_free if health.ready else 0):
            chosen = next_queued(health.base_models)
            if chosen is None or not self._lease(*chosen):
                return

    def _lease(self, tenant: UUID, job: UUID) -> bool:
        leased = attempt_lease(tenant=tenant, job=job)
        crash_point("lease.committed")
        if leased is None or leased.lease_until is None:
            return True
        told = Attempt(tenant, job, leased.attempt, 0, leased.stop, False, leased.lease_until)
        return self._tell(told)

    def _tell(self, attempt: Attempt) -> bool:
        """False when no trainer was free after all."""
        who: dict[str, Any] = {"tenant": attempt.tenant, "job": attempt.job, "attempt": attempt.attempt}
        try:
            if attempt.stop:
                self._plane.stop(attempt.job.hex, attempt.attempt, "cancel")
                attempt_lost(**who, why="it was stopped before it began")
                return True
            self._plane.start(job_spec(**who, grants=self._grants))
            crash_point("dispatch.sent")
            attempt_acknowledged(**who)
            crash_point("dispatch.acknowledged")
        except NoTrainerFree:
            attempt_released(**who)
            return False
        except DataPlaneRefused as error:
            attempt_failed(**who, code=error.reason, message=error.message)
        except StaleAttempt as error:
            log.info("%s", error)
        return True
