"""Routes of batches."""

from django.urls import path

from tilth.batches import api

urlpatterns = [
    path("v1/batches", api.BatchListView.as_view()),
    path("v1/batches/<str:batch>", api.BatchView.as_view()),
    path("v1/batches/<str:batch>/cancel", api.BatchCancelView.as_view()),
]
