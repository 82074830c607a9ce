"""Routes of organisations, members, keys and audit."""

from django.urls import path

from tilth.tenants import api

urlpatterns = [
    path("api/organisation", api.OrganisationView.as_view()),
    path("api/organisations", api.OrganisationListView.as_view()),
    path("api/members", api.MemberListView.as_view()),
    path("api/members/<str:member>", api.MemberView.as_view()),
    path("api/keys", api.KeyListView.as_view()),
    path("api/keys/<str:key>", api.KeyView.as_view()),
    path("api/keys/<str:key>/rotate", api.KeyRotateView.as_view()),
    path("api/audit", api.AuditView.as_view()),
]
