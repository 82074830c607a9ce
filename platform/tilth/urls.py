"""All routes of Django's part: OpenAI's /v1, the management API /api, the pages."""

from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView

urlpatterns = [
    path("accounts/", include("allauth.urls")),
    path("api/schema", SpectacularAPIView.as_view(authentication_classes=[], permission_classes=[]), name="schema"),
    path("", include("tilth.tenants.urls")),
    path("", include("tilth.datasets.urls")),
    path("", include("tilth.usage.urls")),
    path("", include("tilth.billing.urls")),
    path("", include("tilth.catalog.urls")),
    path("", include("tilth.training.urls")),
    path("", include("tilth.registry.urls")),
    path("", include("tilth.serving.urls")),
    path("", include("tilth.dashboard.urls")),
]
