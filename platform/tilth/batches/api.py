"""OpenAI's Batch API; our own options come through the SDK's ``extra_body``."""

from typing import ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tilth.batches import selectors, services
from tilth.batches.described import Batch
from tilth.batches.orders import BatchIn, order_of
from tilth.batches.shapes import batch_shape
from tilth.core import ids
from tilth.core.idempotency import idempotent
from tilth.core.openapi import listed
from tilth.core.pages import PageQuery, cursor, rendered
from tilth.core.serializers import valid, valid_query
from tilth.tenants.authentication import principal_of
from tilth.tenants.scopes import Scope


class BatchListView(APIView):
    """``batches.create`` and ``list``."""

    scopes: ClassVar = {"GET": Scope.JOBS_READ, "POST": Scope.JOBS_WRITE}

    @extend_schema(parameters=[PageQuery], responses=listed(Batch, paged=True))
    def get(self, request: Request) -> Response:
        """Newest first."""
        query, tenant = valid_query(PageQuery, request), principal_of(request).tenant
        found, more = selectors.batch_list(tenant=tenant, limit=query["limit"], after=cursor("batch", query["after"]))
        return Response(rendered(found, more, batch_shape))

    @extend_schema(request=BatchIn, responses=Batch)
    @idempotent
    def post(self, request: Request) -> Response:
        """A retry of the SDK gets the first reply and makes no second batch. The key needs the scope predict, too."""
        by = principal_of(request)
        made = services.batch_create(tenant=by.tenant, by=by, order=order_of(valid(BatchIn, request)))
        return Response(batch_shape(selectors.batch_get(tenant=by.tenant, batch=made)))


class BatchView(APIView):
    """``batches.retrieve``."""

    scopes: ClassVar = {"GET": Scope.JOBS_READ}

    @extend_schema(request=None, responses=Batch)
    def get(self, request: Request, batch: str) -> Response:
        """One batch."""
        return _batch(request, batch)


class BatchCancelView(APIView):
    """``batches.cancel``."""

    scopes: ClassVar = {"POST": Scope.JOBS_WRITE}

    @extend_schema(request=None, responses=Batch)
    @idempotent
    def post(self, request: Request, batch: str) -> Response:
        """What is answered is delivered."""
        by = principal_of(request)
        services.batch_cancel(tenant=by.tenant, by=by, batch=ids.parse("batch", batch))
        return _batch(request, batch)


def _batch(request: Request, batch: str) -> Response:
    found = selectors.batch_get(tenant=principal_of(request).tenant, batch=ids.parse("batch", batch))
    return Response(batch_shape(found))
