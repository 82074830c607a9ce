"""Routes of usage, budget and ledger."""

from django.urls import path

from tilth.usage import api

urlpatterns = [
    path("api/usage", api.UsageView.as_view()),
    path("api/usage/events", api.UsageEventListView.as_view()),
    path("api/budget", api.BudgetView.as_view()),
    path("api/ledger", api.LedgerView.as_view()),
]
