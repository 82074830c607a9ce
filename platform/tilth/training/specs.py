"""The one mapper from a leased job to the JobSpec that crosses to the data plane."""

import hmac
from hashlib import sha256
from typing import cast
from uuid import UUID

from django.conf import settings

from tilth.contract.messages import JobSpec, TrainingOptions
from tilth.core.scope import in_tenant
from tilth.dataplane.grants import JOB_LIFE_S, Grants
from tilth.training.attempts import attempt_locked
from tilth.training.models import Checkpoint
from tilth.training.places import attempt_prefix


def flow_of(tenant: UUID) -> str:
    """Opaque to the data plane: it can be fair between customers without knowing them."""
    return hmac.new(settings.SECRET_KEY.encode(), b"flow:" + tenant.bytes, sha256).hexdigest()[:16]


@in_tenant
def job_spec(*, tenant: UUID, job: UUID, attempt: int, grants: Grants) -> JobSpec:
    """Everything the trainer of this attempt may know and touch; raises StaleAttempt."""
    found = attempt_locked(job, attempt)
    version, left_ms = found.version, cast(int, found.max_device_ms) - found.earlier_ms
    life_s = JOB_LIFE_S + left_ms // 1000
    checkpoint = Checkpoint.objects.filter(job=found).order_by("-step", "-attempt").first()
    return JobSpec(
        job=job.hex,
        attempt=attempt,
        flow=flow_of(tenant),
        vertical=found.vertical,
        base_model=found.base_model,
        rows=grants.read(version.path, sha256=version.sha256, life_s=life_s),
        output=grants.write(attempt_prefix(found), life_s=life_s),
        resume=grants.read(checkpoint.path, life_s=life_s) if checkpoint else None,
        options=TrainingOptions.model_validate(found.options),
        max_device_ms=left_ms,
        prior_device_ms=found.earlier_ms,
    )
