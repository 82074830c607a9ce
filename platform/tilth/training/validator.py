"""Checks and freezes a new job's files, then queues it with price, estimate and hold, or fails it with the reason."""

from functools import partial
from uuid import UUID

from tilth.core.crash import crash_point
from tilth.core.errors import Invalid, NotFound
from tilth.core.loops import Crew
from tilth.datasets.services import SplitOptions, dataset_freeze
from tilth.training.queue import jobs_to_validate
from tilth.training.selectors import job_get
from tilth.training.services import job_refused, job_validated

PATIENCE_S = 0.5
"""How long a round waits for its slowest job before it looks for new ones."""


class Validator:
    """The heavy work is done in the datasets' limited child process; twice gives the same frozen version."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def step(self) -> None:
        """Every job that waits for it, oldest first, a few at once."""
        self._crew.work({job: partial(self.validate, tenant, job) for tenant, job in jobs_to_validate()}, PATIENCE_S)

    def validate(self, tenant: UUID, job: UUID) -> None:
        """One job; raises only what says nothing of its files."""
        asked = job_get(tenant=tenant, job=job).job
        try:
            version = dataset_freeze(
                tenant=tenant,
                vertical=asked.vertical,
                training_file=asked.training_file_id,
                validation_file=asked.validation_file_id,
                test_file=asked.test_file_id,
                columns=asked.columns,
                kinds=asked.kinds,
                options=SplitOptions(asked.options["seed"], asked.accept_bad_rows, asked.split),
            )
        except (Invalid, NotFound) as error:
            job_refused(tenant=tenant, job=job, error=error)
            return
        crash_point("validate.frozen")
        job_validated(tenant=tenant, job=job, version=version.id)
