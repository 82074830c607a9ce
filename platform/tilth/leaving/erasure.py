"""Erases an organisation: doors closed, jobs stopped, rows and objects removed, and last its key, which opens backups.

Each step may be done again: killed anywhere, the same call goes on.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import psycopg
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from tilth.accounts.models import User
from tilth.batches.services import batches_abandon
from tilth.core import storage
from tilth.core.clock import now
from tilth.core.crash import crash_point
from tilth.core.deletions import BACKUP
from tilth.core.errors import Invalid, NotFound, Unavailable
from tilth.core.keystore import KeyDestroyed, Tombstone
from tilth.core.scope import in_tenant, tenant_scope
from tilth.dataplane.port import DataPlane
from tilth.datasets.sweeping import sweep_scratch
from tilth.leaving.rows import ERASED, KEPT, erase_rows
from tilth.serving.models import Deployment
from tilth.tenants.models import ApiKey, Membership, Organisation
from tilth.tenants.principal import Principal
from tilth.tenants.selectors import memberships_of_user
from tilth.training.attempts import StaleAttempt
from tilth.training.endings import attempt_lost
from tilth.training.models import Job
from tilth.training.queue import active_attempts
from tilth.training.services import job_cancel
from tilth.training.states import ENDED

CRASH_POINTS = ("erase.closed", "erase.stopped", "erase.people", "erase.rows", "erase.objects", "erase.key")


@dataclass(frozen=True)
class Certificate:
    """What was done, in ids and counts."""

    organisation: str
    erased_at: str
    key_sha256: str
    """Of the destroyed data key: without it no copy of the objects can be opened, nor of the sealed columns."""
    rows: dict[str, int]
    """Table → rows deleted by this call."""
    objects: int
    people: int
    """Users who belonged to no other organisation."""
    kept: dict[str, str]
    """Tables whose rows stay, and why."""


def tenant_erase(*, tenant: UUID, name: str, plane: DataPlane | None) -> Certificate:
    """Raises NotFound, Invalid for another name, Unavailable while a backup runs or the data plane is away.

    ``plane`` is None where no trainer can be at work: in a product that is being restored.
    """
    _refuse_other_name(tenant=tenant, name=name)
    with _no_backup() as db:
        _close(tenant=tenant)
        crash_point("erase.closed")
        _stop_jobs(tenant, plane)
        batches_abandon(tenant=tenant)
        crash_point("erase.stopped")
        people = _forget_people(tenant=tenant)
        crash_point("erase.people")
        rows = erase_rows(db, tenant)
        crash_point("erase.rows")
        objects = _remove_objects(tenant)
        crash_point("erase.objects")
        buried = storage.key_store().destroy(tenant, now().isoformat())
        crash_point("erase.key")
        late = erase_rows(db, tenant)  # of requests that were under way; from now on none can write
        objects += _remove_objects(tenant)
    return _certified(buried, {**rows, **late}, objects, people)


def _certified(buried: Tombstone, rows: dict[str, int], objects: int, people: int) -> Certificate:
    return Certificate(buried.tenant, buried.destroyed_at, buried.key_sha256, rows, objects, people, KEPT)


@in_tenant
def _refuse_other_name(*, tenant: UUID, name: str) -> None:
    found = Organisation.objects.filter(id=tenant).first()
    if found is None:
        raise NotFound.of("organisation", tenant.hex)
    buried = storage.key_store().tombstone(tenant)  # confirmation enough: a restored backup shows the name once more
    if found.name not in (name, ERASED) and buried is None:
        raise Invalid(
            f"The organisation {tenant.hex} has another name than {name!r}; nothing was erased.", param="name"
        )


@contextmanager
def _no_backup() -> Iterator[psycopg.Connection]:
    """The owner's connection, which alone may delete from append-only tables; no backup begins meanwhile."""
    if not settings.ENV.database_url_owner:
        raise ImproperlyConfigured("erasure deletes from append-only tables: set DATABASE_URL_OWNER")
    with psycopg.connect(settings.ENV.database_url_owner, autocommit=True) as db:
        held = db.execute("SELECT pg_try_advisory_lock_shared(%s)", [BACKUP]).fetchone()
        if not (held and held[0]):
            raise Unavailable("A backup runs; erase after it.")
        yield db
        db.execute("SELECT pg_advisory_unlock_shared(%s)", [BACKUP])


@in_tenant
def _close(*, tenant: UUID) -> None:
    """No key opens any more, nothing answers."""
    ApiKey.objects.filter(revoked_at=None).update(revoked_at=now())
    Deployment.objects.filter(deleted_at=None).update(deleted_at=now())


def _stop_jobs(tenant: UUID, plane: DataPlane | None) -> None:
    """Each job is cancelled and what it used is billed; a trainer at work is killed, its prefix revoked."""
    operator = Principal(tenant=tenant, actor="system", scopes=frozenset())
    for job in _unfinished(tenant=tenant):
        job_cancel(tenant=tenant, by=operator, job=job)
    for attempt in [each for each in active_attempts() if each.tenant == tenant]:
        with suppress(KeyDestroyed):
            storage.revoke(attempt.prefix)
        if plane is not None:
            plane.stop(attempt.job.hex, attempt.attempt, "kill")
        with suppress(StaleAttempt):
            attempt_lost(tenant=tenant, job=attempt.job, attempt=attempt.attempt, why="its organisation is erased")


@in_tenant
def _unfinished(*, tenant: UUID) -> list[UUID]:
    return list(Job.objects.exclude(state__in=ENDED).values_list("id", flat=True))


@in_tenant
def _forget_people(*, tenant: UUID) -> int:
    """Members of no other organisation, with their addresses and second factors; operators stay."""
    members = list(Membership.objects.values_list("user_id", flat=True))
    alone = [user for user in members if {each.tenant_id for each in memberships_of_user(user)} == {tenant}]
    with tenant_scope(tenant):
        gone = User.objects.filter(id__in=alone, is_staff=False)
        count = gone.count()
        gone.delete()
    return count


def _remove_objects(tenant: UUID) -> int:
    """Also what killed processes have left in scratch."""
    count = sum(1 for _ in storage.walk(f"tenants/{tenant.hex}"))
    storage.delete_prefix(f"tenants/{tenant.hex}")
    sweep_scratch()
    return count
