"""What an attempt's stored events add up to."""

from typing import Any
from uuid import UUID

from tilth.contract.messages import TERMINAL, EventKind
from tilth.core.scope import in_tenant
from tilth.dataplane.port import StopMode
from tilth.training.models import Event
from tilth.training.states import Stop


@in_tenant
def last_words(*, tenant: UUID, job: UUID, attempt: int) -> tuple[EventKind | None, dict[str, Any], bool]:
    """(how the trainer said it ended, with which data; whether it gave its device back)."""
    telling = [*TERMINAL, EventKind.SPAN_CLOSED]
    rows = dict(Event.objects.filter(job_id=job, attempt=attempt, kind__in=telling).values_list("kind", "data"))
    closed = rows.pop(EventKind.SPAN_CLOSED, None) is not None
    for kind, data in rows.items():
        return EventKind(kind), data, closed
    return None, {}, closed


def stop_mode(stop: str) -> StopMode:
    """A restart is a pause that is not left standing."""
    return "cancel" if stop == Stop.CANCEL else "pause"
