"""Where a job's objects lie below TILTH_ARTIFACTS."""

from tilth.training.models import Job


def attempt_prefix(job: Job) -> str:
    """The newest attempt's own prefix: the only place that its trainer may write to; ends with a slash."""
    return f"tenants/{job.tenant_id.hex}/jobs/{job.id.hex}/attempts/{job.attempt}/"


def inside(prefix: str, told: str) -> str:
    """A folder that a trainer named below its prefix; raises ValueError for one that leads out. Ends with a slash."""
    parts = [part for part in told.split("/") if part]
    if told.startswith("/") or not parts or any(part in (".", "..") for part in parts):
        raise ValueError(f"{told!r} is no folder below the attempt's prefix")
    return prefix + "/".join(parts) + "/"
