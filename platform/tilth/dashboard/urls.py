"""Routes of the customers' pages."""

from django.urls import path

from tilth.dashboard import batching, data, home, learning, money, organisations

urlpatterns = [
    path("", home.home, name="home"),
    path("organisations", organisations.organisations, name="organisations"),
    path("organisations/<str:organisation>/choose", organisations.organisation_choose, name="organisation-choose"),
    path("keys", organisations.keys, name="keys"),
    path("keys/<str:key>/revoke", organisations.key_revoke, name="key-revoke"),
    path("files", data.files, name="files"),
    path("files/<str:file>", data.file, name="file"),
    path("files/<str:file>/delete", data.file_delete, name="file-delete"),
    path("browser-key", data.browser_key, name="browser-key"),
    path("jobs", learning.jobs, name="jobs"),
    path("jobs/<str:job>", learning.job, name="job"),
    path("jobs/<str:job>/<str:action>", learning.job_act, name="job-act"),
    path("models", learning.models, name="models"),
    path("models/<str:model>", learning.model, name="model"),
    path("batches", batching.batches, name="batches"),
    path("batches/<str:batch>/cancel", batching.batch_cancel, name="batch-cancel"),
    path("usage", money.usage, name="usage"),
]
