"""The two documents that describe the APIs, for everybody: ``/v1/openapi.json`` and ``/api/schema``."""

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from tilth.core.openapi import document
from tilth.gateway import description


@require_safe
def openai_schema(request: HttpRequest) -> JsonResponse:
    """OpenAI's routes, the thin app's among them."""
    paths, schemas = description.paths(), description.schemas()
    return JsonResponse(document("/v1/", "Tilth, OpenAI-compatible API", paths, schemas))


@require_safe
def management_schema(request: HttpRequest) -> JsonResponse:
    """Everything else."""
    return JsonResponse(document("/api/", "Tilth management API"))
