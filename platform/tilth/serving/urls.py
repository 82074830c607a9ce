"""Routes of deployments."""

from django.urls import path

from tilth.serving import api

urlpatterns = [
    path("api/deployments", api.DeploymentListView.as_view()),
    path("api/deployments/<str:deployment>", api.DeploymentView.as_view()),
]
