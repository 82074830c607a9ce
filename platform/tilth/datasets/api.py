"""OpenAI's files and uploads API (the thin app takes the bytes), and the management API of reports and versions."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar
from uuid import UUID

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request as HttpRequest
from rest_framework.response import Response
from rest_framework.views import APIView

from tilth.core import ids, storage
from tilth.core.bodies import parsed
from tilth.core.errors import NotFound
from tilth.core.idempotency import idempotent
from tilth.core.openapi import listed
from tilth.core.pages import PageQuery, cursor, rendered
from tilth.core.serializers import Deleted, Strict, valid, valid_query
from tilth.datasets import selectors, services
from tilth.datasets.checking import check_create
from tilth.datasets.export import problems_csv
from tilth.datasets.fields import KindField, KindsField, SplitField
from tilth.datasets.models import Check
from tilth.datasets.recipes import Request, SplitOptions
from tilth.datasets.shapes import check_shape, dataset_shape, file_shape, upload_shape
from tilth.datasets.uploading import upload_cancel, upload_create
from tilth.tenants.authentication import principal_of
from tilth.tenants.scopes import Scope


class FileListView(APIView):
    """``files.list``; ``files.create`` goes to the thin app."""

    scopes: ClassVar = {"GET": Scope.FILES_READ}

    @property
    def default_response_headers(self) -> dict[str, str]:
        """With the thin app's method."""
        told: dict[str, str] = super().default_response_headers
        return {**told, "Allow": f"{told['Allow']}, POST"}

    class In(PageQuery):
        limit = serializers.IntegerField(default=1000, min_value=1, max_value=10_000)
        purpose = serializers.CharField(default=None, allow_null=True)
        order = serializers.ChoiceField(["asc", "desc"], default="desc")

    class Out(serializers.Serializer[Any]):
        id = serializers.CharField()
        object = serializers.CharField()
        bytes = serializers.IntegerField()
        created_at = serializers.IntegerField()
        expires_at = serializers.IntegerField(allow_null=True)
        filename = serializers.CharField()
        purpose = serializers.CharField()
        status = serializers.ChoiceField(["uploaded", "processed", "error"])
        status_details = serializers.CharField(allow_null=True)

    @extend_schema(parameters=[In], responses=listed(Out, paged=True))
    def get(self, request: HttpRequest) -> Response:
        """Newest first, unless asked otherwise."""
        query = valid_query(self.In, request)
        files, more = selectors.file_list(
            tenant=principal_of(request).tenant,
            limit=query["limit"],
            after=cursor("file", query["after"]),
            purpose=query["purpose"],
            ascending=query["order"] == "asc",
        )
        return Response(rendered(files, more, file_shape))


class FileView(APIView):
    """``files.retrieve`` and ``files.delete``."""

    scopes: ClassVar = {"GET": Scope.FILES_READ, "DELETE": Scope.FILES_WRITE}

    @extend_schema(responses=FileListView.Out)
    def get(self, request: HttpRequest, file: str) -> Response:
        """One file."""
        found = selectors.file_get(tenant=principal_of(request).tenant, file=ids.parse("file", file))
        return Response(file_shape(found))

    @extend_schema(responses={200: Deleted})
    def delete(self, request: HttpRequest, file: str) -> Response:
        """Frozen versions stay."""
        by = principal_of(request)
        services.file_delete(tenant=by.tenant, by=by, file=ids.parse("file", file))
        return Response({"id": file, "object": "file", "deleted": True})


class UploadListView(APIView):
    """``uploads.create``; parts and ``uploads.complete`` go to the thin app."""

    scopes: ClassVar = {"POST": Scope.FILES_WRITE}

    class In(Strict):
        class Life(Strict):
            anchor = serializers.ChoiceField(["created_at"])
            seconds = serializers.IntegerField()

        bytes = serializers.IntegerField()
        filename = serializers.CharField(max_length=1024)
        mime_type = serializers.CharField(max_length=255, help_text="not kept: a file's first bytes tell what it is")
        purpose = serializers.CharField()
        expires_after = Life(default=None, allow_null=True)

    class Out(serializers.Serializer[Any]):
        id = serializers.CharField()
        object = serializers.CharField()
        bytes = serializers.IntegerField()
        created_at = serializers.IntegerField()
        expires_at = serializers.IntegerField()
        filename = serializers.CharField()
        purpose = serializers.CharField()
        status = serializers.ChoiceField(["pending", "completed", "cancelled", "expired"])
        file = FileListView.Out(allow_null=True)

    @extend_schema(request=In, responses={200: Out})
    @idempotent
    def post(self, request: HttpRequest) -> Response:
        """A retry of the SDK gets the first reply and opens no second upload."""
        by, wish = principal_of(request), valid(self.In, request)
        made = upload_create(
            tenant=by.tenant, by=by, filename=wish["filename"], purpose=wish["purpose"], size=wish["bytes"],
            expires_after_s=wish["expires_after"] and wish["expires_after"]["seconds"],
        )  # fmt: skip
        return Response(upload_shape(made))


class UploadCancelView(APIView):
    """``uploads.cancel``."""

    scopes: ClassVar = {"POST": Scope.FILES_WRITE}

    @extend_schema(request=None, responses={200: UploadListView.Out})
    @idempotent
    def post(self, request: HttpRequest, upload: str) -> Response:
        """For good; its parts go."""
        by = principal_of(request)
        return Response(upload_shape(upload_cancel(tenant=by.tenant, by=by, upload=ids.parse("upload", upload))))


class AnyAccept(DefaultContentNegotiation):
    """For answers that are no JSON: the SDK accepts ``application/binary``, which no renderer is named."""

    def select_renderer(self, request: HttpRequest, renderers: Any, format_suffix: Any = None) -> Any:
        """Errors are JSON all the same."""
        return renderers[0], renderers[0].media_type


class FileContentView(APIView):
    """``files.content``."""

    scopes: ClassVar = {"GET": Scope.FILES_READ}
    content_negotiation_class = AnyAccept

    @extend_schema(responses={(200, "application/octet-stream"): OpenApiTypes.BINARY})
    def get(self, request: HttpRequest, file: str) -> StreamingHttpResponse:
        """The bytes as they were uploaded, a mebibyte at a time; nothing here looks into them."""
        found = selectors.file_get(tenant=principal_of(request).tenant, file=ids.parse("file", file))
        if not storage.exists(found.path):
            raise NotFound.of("file", file)
        chunks = storage.read_chunks(found.path)
        streamed = _in_threads(chunks) if isinstance(request._request, ASGIRequest) else chunks
        response = StreamingHttpResponse(streamed, content_type="application/octet-stream")
        response["Content-Length"] = str(found.bytes)
        response["Content-Disposition"] = f'attachment; filename="{file}"'
        return response


class FileReportView(APIView):
    """What the check of an upload found; for a vertical and a mapping, what all its rows together show."""

    scopes: ClassVar = {"GET": Scope.FILES_READ}

    class In(serializers.Serializer[Any]):
        vertical = serializers.CharField(default=None, allow_null=True)
        columns = serializers.CharField(default=None, allow_null=True, help_text='JSON, e.g. {"text": "utterance"}')
        kinds = serializers.CharField(default=None, allow_null=True, help_text='JSON, e.g. {"branch": "category"}')
        split = SplitField(default=None)
        accept_bad_rows = serializers.BooleanField(default=False)

    class Out(serializers.Serializer[Any]):
        file = serializers.CharField()
        status = serializers.CharField()
        status_details = serializers.CharField(allow_null=True)
        report = serializers.JSONField(allow_null=True)
        check = serializers.JSONField(allow_null=True)

    @extend_schema(parameters=[In], responses=Out)
    def get(self, request: HttpRequest, file: str) -> Response:
        """With a vertical, ask again while ``check.state`` is pending."""
        query, tenant = valid_query(self.In, request), principal_of(request).tenant
        found = selectors.file_get(tenant=tenant, file=ids.parse("file", file))
        check = None
        if query["vertical"] and found.status != found.Status.ERROR:
            wish = Request(
                vertical=query["vertical"],
                training_file=found.id,
                columns=_object(
                    query, "columns", serializers.DictField(child=serializers.CharField(), allow_null=True)
                ),
                options=SplitOptions(accept_bad_rows=query["accept_bad_rows"], split=query["split"]),
                kinds=_object(query, "kinds", KindsField()),
            )
            check = check_shape(check_create(tenant=tenant, request=wish, freeze=False))
        facts = {"file": file, "status": found.status, "status_details": found.status_details or None}
        return Response({**facts, "report": found.report, "check": check})


class FileProblemsView(APIView):
    """A file's problems as CSV, for a spreadsheet."""

    scopes: ClassVar = {"GET": Scope.FILES_READ}
    content_negotiation_class = AnyAccept

    @extend_schema(responses={(200, "text/csv"): str})
    def get(self, request: HttpRequest, file: str) -> HttpResponse:
        """Cells that a spreadsheet would run as formulas are escaped."""
        found = selectors.file_get(tenant=principal_of(request).tenant, file=ids.parse("file", file))
        problems = (found.report or {}).get("problems", {}).get("first", [])
        text = problems_csv({**problem, "file": found.filename} for problem in problems)
        response = HttpResponse(text, content_type="text/csv; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="{file}-problems.csv"'
        return response


class DatasetListView(APIView):
    """Frozen versions, and the wish for a new one."""

    scopes: ClassVar = {"GET": Scope.FILES_READ, "POST": Scope.FILES_WRITE}

    class In(Strict):
        vertical = serializers.CharField()
        training_file = serializers.CharField()
        validation_file = serializers.CharField(default=None, allow_null=True)
        test_file = serializers.CharField(default=None, allow_null=True)
        columns = serializers.DictField(child=serializers.CharField(), default=None, allow_null=True)
        kinds = KindsField(default=None)
        split = SplitField(default=None)
        seed = serializers.IntegerField(default=0, min_value=0, max_value=2**31 - 1)
        accept_bad_rows = serializers.BooleanField(default=False)

    class Out(serializers.Serializer[Any]):
        id = serializers.CharField()
        object = serializers.CharField()
        created_at = serializers.IntegerField()
        vertical = serializers.CharField()
        training_file = serializers.CharField()
        validation_file = serializers.CharField(allow_null=True)
        test_file = serializers.CharField(allow_null=True)
        columns = serializers.DictField(child=serializers.CharField())
        kinds = serializers.DictField(child=KindField())
        options = serializers.JSONField()
        sha256 = serializers.CharField()
        bytes = serializers.IntegerField()
        rows = serializers.IntegerField()
        splits = serializers.DictField(child=serializers.IntegerField())

    class Asked(serializers.Serializer[Any]):
        id = serializers.CharField()
        object = serializers.CharField()
        created_at = serializers.IntegerField()
        state = serializers.ChoiceField(Check.State.values)
        vertical = serializers.CharField()
        training_file = serializers.CharField()
        validation_file = serializers.CharField(allow_null=True)
        test_file = serializers.CharField(allow_null=True)
        columns = serializers.JSONField(allow_null=True)
        kinds = KindsField()
        options = serializers.JSONField()
        report = serializers.JSONField(allow_null=True)
        error = serializers.JSONField(allow_null=True)
        dataset = serializers.CharField(allow_null=True)

    @extend_schema(parameters=[PageQuery], responses=listed(Out, paged=True))
    def get(self, request: HttpRequest) -> Response:
        """Newest first."""
        query = valid_query(PageQuery, request)
        versions, more = selectors.dataset_list(
            tenant=principal_of(request).tenant, limit=query["limit"], after=cursor("dsv", query["after"])
        )
        return Response(rendered(versions, more, dataset_shape))

    @extend_schema(request=In, responses={200: Asked, 202: Asked})
    @idempotent
    def post(self, request: HttpRequest) -> Response:
        """Checks and freezes; the same wish is the same check. Ask for the check again while it is pending (202)."""
        wish = _request(valid(self.In, request))
        check = check_create(tenant=principal_of(request).tenant, request=wish, freeze=True)
        return Response(check_shape(check), status=202 if check.state == Check.State.PENDING else 200)


class DatasetView(APIView):
    """One frozen version."""

    scopes: ClassVar = {"GET": Scope.FILES_READ}

    class Detailed(DatasetListView.Out):
        report = serializers.JSONField()

    @extend_schema(responses=Detailed)
    def get(self, request: HttpRequest, dataset: str) -> Response:
        """With its report: columns and why, labels, what was left out, the first rows of each split."""
        tenant = principal_of(request).tenant
        found = selectors.dataset_get(tenant=tenant, version=ids.parse("dsv", dataset))
        return Response({**dataset_shape(found), "report": found.report})


class CheckView(APIView):
    """One check that was asked for."""

    scopes: ClassVar = {"GET": Scope.FILES_READ}

    @extend_schema(responses=DatasetListView.Asked)
    def get(self, request: HttpRequest, check: str) -> Response:
        """Pending, passed or refused."""
        found = selectors.check_get(tenant=principal_of(request).tenant, check=ids.parse("check", check))
        return Response(check_shape(found))


def _object(query: dict[str, Any], name: str, field: serializers.DictField) -> dict[str, str] | None:
    """The JSON object in a query's parameter; raises Invalid, ValidationError for anything else."""
    if not query[name]:
        return None
    try:
        found: dict[str, str] | None = field.run_validation(parsed(query[name].encode(), name))
    except serializers.ValidationError as error:
        raise serializers.ValidationError({name: error.detail}) from None
    return found


def _request(body: dict[str, Any]) -> Request:
    return Request(
        vertical=body["vertical"],
        training_file=ids.parse("file", body["training_file"]),
        validation_file=_file(body["validation_file"]),
        test_file=_file(body["test_file"]),
        columns=body["columns"],
        options=SplitOptions(body["seed"], body["accept_bad_rows"], body["split"]),
        kinds=body["kinds"],
    )


def _file(text: str | None) -> UUID | None:
    return ids.parse("file", text) if text else None


async def _in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Reads in threads: under ASGI a plain iterator would be read whole before the first byte goes out."""
    while (chunk := await asyncio.to_thread(next, chunks, b"")) != b"":
        yield chunk
