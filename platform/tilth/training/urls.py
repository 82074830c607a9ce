"""Routes of fine-tuning jobs."""

from django.urls import path

from tilth.training import api

urlpatterns = [
    path("v1/fine_tuning/jobs", api.JobListView.as_view()),
    path("v1/fine_tuning/jobs/<str:job>", api.JobView.as_view()),
    path("v1/fine_tuning/jobs/<str:job>/cancel", api.JobCancelView.as_view()),
    path("v1/fine_tuning/jobs/<str:job>/pause", api.JobPauseView.as_view()),
    path("v1/fine_tuning/jobs/<str:job>/resume", api.JobResumeView.as_view()),
    path("v1/fine_tuning/jobs/<str:job>/events", api.JobEventsView.as_view()),
    path("v1/fine_tuning/jobs/<str:job>/checkpoints", api.JobCheckpointsView.as_view()),
]
