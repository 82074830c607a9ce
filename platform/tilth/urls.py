"""All routes of Django's part: OpenAI's /v1, the management API /api, the pages."""

from django.urls import include, path

from tilth.gateway import api as descriptions

urlpatterns = [
    path("accounts/", include("allauth.urls")),
    path("api/schema", descriptions.management_schema, name="schema"),
    path("v1/openapi.json", descriptions.openai_schema, name="openai-schema"),
    path("", include("tilth.tenants.urls")),
    path("", include("tilth.datasets.urls")),
    path("", include("tilth.usage.urls")),
    path("", include("tilth.billing.urls")),
    path("", include("tilth.catalog.urls")),
    path("", include("tilth.training.urls")),
    path("", include("tilth.registry.urls")),
    path("", include("tilth.serving.urls")),
    path("", include("tilth.batches.urls")),
    path("", include("tilth.dashboard.urls")),
]

handler400 = "tilth.core.http.bad_request"
handler404 = "tilth.core.http.page_not_found"
handler500 = "tilth.core.http.server_error"
