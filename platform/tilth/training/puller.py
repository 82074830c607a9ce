"""Pulls trainers' events, passes on stops, and ends attempts that have ended, died or gone silent."""

import logging
import time
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DataError

from tilth.contract.messages import EventKind, EventsPage, EventsQuery, JobState
from tilth.core import storage
from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.errors import Invalid
from tilth.core.loops import AWAY, Crew
from tilth.dataplane.grants import Grants
from tilth.dataplane.port import DataPlane, DataPlaneRefused
from tilth.registry.folders import FolderRefused, verify_folder
from tilth.training.attempts import StaleAttempt, page_apply
from tilth.training.effects import BadReport
from tilth.training.endings import (
    attempt_cancelled,
    attempt_failed,
    attempt_lost,
    attempt_paused,
    attempt_succeeded,
)
from tilth.training.places import inside
from tilth.training.queue import Attempt, active_attempts
from tilth.training.reports import last_words, stop_mode
from tilth.training.results import results_store

log = logging.getLogger(__name__)

PAGE = 500
"""Events fetched at once."""
PAGES = 20
"""Of one attempt in one round: one that talks without end does not hold up its thread."""
PATIENCE_S = 1.0
"""How long a round waits for its slowest attempt before the next round begins without it."""


class Puller:
    """Works on one attempt at a time; safe to call from several threads for different attempts."""

    def __init__(self, plane: DataPlane, grants: Grants) -> None:
        self._plane = plane
        self._grants = grants
        self._since: dict[tuple[UUID, int], float] = {}
        """Since when (monotonic) this process has listened to an attempt without a break."""

    def pull(self, attempt: Attempt) -> None:
        """Everything that is new of an attempt; raises Unavailable when the data plane or the database is away."""
        try:
            self._pull(attempt)
        except AWAY:
            self._since.pop((attempt.job, attempt.attempt), None)
            raise
        except (BadReport, DataPlaneRefused) as error:
            log.error("job %s, attempt %s: %s", attempt.job.hex, attempt.attempt, error)
            self._give_up(attempt, f"its trainer's report was refused: {error}")
        except StaleAttempt as error:
            log.info("%s", error)

    def _pull(self, attempt: Attempt) -> None:
        if attempt.stop:
            self._plane.stop(attempt.job.hex, attempt.attempt, stop_mode(attempt.stop))
            crash_point("pull.stop_sent")
        after = attempt.last_seq
        for _ in range(PAGES):
            page = self._page(attempt, after)
            crash_point("pull.read")
            if page.events:
                page_apply(**_who(attempt), events=page.events)
                crash_point("page.committed")
                after = page.events[-1].seq
            if len(page.events) < PAGE:
                break
        self._listening_s(attempt)
        self._judge(attempt, page, heard=after > attempt.last_seq)

    def _page(self, attempt: Attempt, after: int) -> EventsPage:
        grant = self._grants.read(f"{attempt.prefix}events/")
        query = EventsQuery(grant=grant, after=after, limit=PAGE)
        page = self._plane.events(attempt.job.hex, attempt.attempt, query)
        if len(page.events) > PAGE:
            raise BadReport(f"{len(page.events)} events came where at most {PAGE} were asked for")
        return page

    def _judge(self, attempt: Attempt, page: EventsPage, heard: bool) -> None:
        """Whether the attempt is over. Silence counts only while we were listening; a finished one's last word
        may still be on its way through storage, so its lease is waited for."""
        kind, data, closed = last_words(**_who(attempt))
        gone = page.status.state is not JobState.RUNNING
        silent = not heard and attempt.lease_until < now() and self._listening_s(attempt) > settings.ENV.lease_s
        if kind is not None and (closed or gone or silent):
            self._end(attempt, kind, data)
        elif gone and page.status.state is not JobState.FINISHED:
            self._give_up(attempt, f"the data plane says its trainer is {page.status.state}")
        elif silent:
            self._give_up(attempt, "its trainer has gone silent")

    def _listening_s(self, attempt: Attempt) -> float:
        moment = time.monotonic()
        return moment - self._since.setdefault((attempt.job, attempt.attempt), moment)

    def _end(self, attempt: Attempt, kind: EventKind, data: dict[str, Any]) -> None:
        who = _who(attempt)
        match kind:
            case EventKind.SUCCEEDED:
                self._succeed(attempt, data)
            case EventKind.FAILED:
                attempt_failed(**who, code=str(data.get("code", "failed")), message=str(data.get("message", "")))
            case EventKind.PAUSED:
                attempt_paused(**who)
            case _:
                attempt_cancelled(**who)
        self._since.pop((attempt.job, attempt.attempt), None)

    def _succeed(self, attempt: Attempt, data: dict[str, Any]) -> None:
        try:
            folder = verify_folder(inside(attempt.prefix, str(data.get("path"))), str(data.get("digest")))
        except (FolderRefused, ValueError) as error:
            self._give_up(attempt, f"its model was refused: {error}")
            return
        crash_point("finish.verified")
        results = results_store(tenant=attempt.tenant, job=attempt.job, report=data.get("report"))
        try:
            attempt_succeeded(**_who(attempt), folder=folder, results=results, facts=data)
        except (FolderRefused, DataError, ValueError, TypeError, OverflowError) as error:
            self._give_up(attempt, f"its last word cannot be kept: {error}")
            return
        except Invalid as error:  # another attempt would end there, too
            attempt_failed(**_who(attempt), code=error.reason, message=error.message)
            return
        crash_point("finish.committed")

    def _give_up(self, attempt: Attempt, why: str) -> None:
        """Nothing more is taken from the old trainer, and if it lives it is killed; then the job goes on without it."""
        storage.revoke(attempt.prefix)
        crash_point("lost.revoked")
        try:
            self._plane.stop(attempt.job.hex, attempt.attempt, "kill")
        except DataPlaneRefused as error:
            log.error("job %s, attempt %s is not killed: %s", attempt.job.hex, attempt.attempt, error)
        crash_point("lost.told")
        attempt_lost(**_who(attempt), why=why)
        crash_point("lost.committed")
        self._since.pop((attempt.job, attempt.attempt), None)


def _who(attempt: Attempt) -> dict[str, Any]:
    return {"tenant": attempt.tenant, "job": attempt.job, "attempt": attempt.attempt}


class PullLoop:
    """One step looks at every attempt that a trainer has, several at once; one that hangs holds up no other."""

    def __init__(self, puller: Puller, crew: Crew) -> None:
        self._puller = puller
        self._crew = crew

    def step(self) -> None:
        """Raises what went wrong with any of them, after all were looked at."""
        told = [attempt for attempt in active_attempts() if attempt.dispatched]
        self._crew.work({(a.job, a.attempt): partial(self._puller.pull, a) for a in told}, patience_s=PATIENCE_S)
