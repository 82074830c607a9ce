"""Routes of billing."""

from django.urls import path

from tilth.billing import api

urlpatterns = [path("api/invoice", api.InvoiceView.as_view())]
