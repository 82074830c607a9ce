"""Routes of models; a name may hold colons."""

from django.urls import path

from tilth.registry import api

urlpatterns = [
    path("v1/models", api.ModelListView.as_view()),
    path("v1/models/<str:model>", api.ModelView.as_view()),
]
