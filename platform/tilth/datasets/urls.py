"""Routes of files, checks and frozen versions."""

from django.urls import path

from tilth.datasets import api

urlpatterns = [
    path("v1/files", api.FileListView.as_view()),
    path("v1/files/<str:file>", api.FileView.as_view()),
    path("v1/files/<str:file>/content", api.FileContentView.as_view()),
    path("v1/uploads", api.UploadListView.as_view()),
    path("v1/uploads/<str:upload>/cancel", api.UploadCancelView.as_view()),
    path("api/files/<str:file>/report", api.FileReportView.as_view()),
    path("api/files/<str:file>/problems.csv", api.FileProblemsView.as_view()),
    path("api/datasets", api.DatasetListView.as_view()),
    path("api/datasets/<str:dataset>", api.DatasetView.as_view()),
    path("api/checks/<str:check>", api.CheckView.as_view()),
]
