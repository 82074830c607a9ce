"""OpenAI's cursor pages: newest first, ``after`` is the public id of the last item seen."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import QuerySet
from rest_framework import serializers

from tilth.core.errors import NotFound
from tilth.core.ids import parse, public

T = TypeVar("T")


class PageQuery(serializers.Serializer[Any]):
    """Every list's query."""

    limit = serializers.IntegerField(default=20, min_value=1, max_value=100)
    after = serializers.CharField(default=None, allow_null=True)


def cursor(prefix: str, after: str | None) -> UUID | None:
    """The id behind ``after``; raises NotFound for what is no id of that kind."""
    return parse(prefix, after) if after else None


def page(
    rows: QuerySet[Any], *, after: UUID | None, limit: int, kind: str, by: str = "id", ascending: bool = False,
    among: QuerySet[Any] | None = None,
) -> tuple[list[Any], bool]:  # fmt: skip
    """Rows beyond the one of id ``after``, in falling order of ``by`` unless ascending, and whether there are more.

    ``among``: where ``after`` may be, if it may have left ``rows`` since it was seen.
    """
    ordered = rows.order_by(by if ascending else f"-{by}")
    if after is not None:
        last = (rows if among is None else among).filter(id=after).values_list(by, flat=True).first()
        if last is None:
            raise NotFound.of(kind, public(kind, after))
        ordered = ordered.filter(**{f"{by}__{'gt' if ascending else 'lt'}": last})
    found = list(ordered[: limit + 1])
    return found[:limit], len(found) > limit


def rendered(items: Sequence[T], more: bool, show: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    """``{"object": "list", "data": […], "first_id", "last_id", "has_more"}``."""
    data = [show(item) for item in items]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }
