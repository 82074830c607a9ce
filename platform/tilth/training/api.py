"""OpenAI's fine-tuning API; our own options come through the SDK's ``extra_body``."""

import re
from typing import ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from tilth.core import ids
from tilth.core.idempotency import idempotent
from tilth.core.openapi import listed
from tilth.core.pages import PageQuery, cursor, rendered
from tilth.core.serializers import valid, valid_query
from tilth.tenants.authentication import principal_of
from tilth.tenants.scopes import Scope
from tilth.training import selectors, services
from tilth.training.described import Job, JobCheckpoint, JobEvent
from tilth.training.orders import JobIn, order_of
from tilth.training.shapes import checkpoint_shape, event_shape, job_shape

METADATA = re.compile(r"metadata\[(.+)\]")


class JobListView(APIView):
    """``fine_tuning.jobs.create`` and ``list``."""

    scopes: ClassVar = {"GET": Scope.JOBS_READ, "POST": Scope.JOBS_WRITE}

    @extend_schema(parameters=[PageQuery], responses=listed(Job, paged=True))
    def get(self, request: Request) -> Response:
        """Newest first."""
        query, tenant = valid_query(PageQuery, request), principal_of(request).tenant
        wanted = {
            found[1]: str(value) for key, value in request.query_params.items() if (found := METADATA.fullmatch(key))
        }
        jobs, more = selectors.job_list(
            tenant=tenant, limit=query["limit"], after=cursor("ftjob", query["after"]), metadata=wanted
        )
        return Response(rendered(jobs, more, job_shape))

    @extend_schema(request=JobIn, responses=Job)
    @idempotent
    def post(self, request: Request) -> Response:
        """A retry of the SDK gets the first reply and makes no second job."""
        by = principal_of(request)
        made = services.job_create(tenant=by.tenant, by=by, order=order_of(valid(JobIn, request)))
        return Response(job_shape(selectors.job_get(tenant=by.tenant, job=made)))


class JobView(APIView):
    """``fine_tuning.jobs.retrieve``."""

    scopes: ClassVar = {"GET": Scope.JOBS_READ}

    @extend_schema(request=None, responses=Job)
    def get(self, request: Request, job: str) -> Response:
        """One job."""
        return _job(request, job)


class JobCancelView(APIView):
    """``fine_tuning.jobs.cancel``."""

    scopes: ClassVar = {"POST": Scope.JOBS_WRITE}

    @extend_schema(request=None, responses=Job)
    @idempotent
    def post(self, request: Request, job: str) -> Response:
        """For good."""
        by = principal_of(request)
        services.job_cancel(tenant=by.tenant, by=by, job=ids.parse("ftjob", job))
        return _job(request, job)


class JobPauseView(APIView):
    """``fine_tuning.jobs.pause``."""

    scopes: ClassVar = {"POST": Scope.JOBS_WRITE}

    @extend_schema(request=None, responses=Job)
    @idempotent
    def post(self, request: Request, job: str) -> Response:
        """After a checkpoint."""
        by = principal_of(request)
        services.job_pause(tenant=by.tenant, by=by, job=ids.parse("ftjob", job))
        return _job(request, job)


class JobResumeView(APIView):
    """``fine_tuning.jobs.resume``."""

    scopes: ClassVar = {"POST": Scope.JOBS_WRITE}

    @extend_schema(request=None, responses=Job)
    @idempotent
    def post(self, request: Request, job: str) -> Response:
        """From its last checkpoint."""
        by = principal_of(request)
        services.job_resume(tenant=by.tenant, by=by, job=ids.parse("ftjob", job))
        return _job(request, job)


class JobEventsView(APIView):
    """``fine_tuning.jobs.list_events``."""

    scopes: ClassVar = {"GET": Scope.JOBS_READ}

    @extend_schema(parameters=[PageQuery], responses=listed(JobEvent, paged=True))
    def get(self, request: Request, job: str) -> Response:
        """Newest first."""
        query, tenant = valid_query(PageQuery, request), principal_of(request).tenant
        events, more = selectors.event_list(
            tenant=tenant, job=ids.parse("ftjob", job), limit=query["limit"], after=cursor("ftevent", query["after"])
        )
        return Response(rendered(events, more, event_shape))


class JobCheckpointsView(APIView):
    """``fine_tuning.jobs.checkpoints.list``."""

    scopes: ClassVar = {"GET": Scope.JOBS_READ}

    @extend_schema(parameters=[PageQuery], responses=listed(JobCheckpoint, paged=True))
    def get(self, request: Request, job: str) -> Response:
        """Newest first."""
        query, tenant = valid_query(PageQuery, request), principal_of(request).tenant
        found = ids.parse("ftjob", job)
        checkpoints, more = selectors.checkpoint_list(
            tenant=tenant, job=found, limit=query["limit"], after=cursor("ftckpt", query["after"])
        )
        model = selectors.future_model_name(tenant=tenant, job=found)
        return Response(rendered(checkpoints, more, lambda checkpoint: checkpoint_shape(checkpoint, model)))


def _job(request: Request, job: str) -> Response:
    found = selectors.job_get(tenant=principal_of(request).tenant, job=ids.parse("ftjob", job))
    return Response(job_shape(found))
