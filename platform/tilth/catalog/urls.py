"""Routes of what is on offer."""

from django.urls import path

from tilth.catalog import api

urlpatterns = [path("api/verticals", api.VerticalListView.as_view())]
