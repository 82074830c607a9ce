"""The one place that reads the environment: typed, with units; a missing value fails at start with a sentence."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

ROOT = Path(__file__).resolve().parents[3]
KEEPALIVE: dict[str, int] = {
    "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000,
}  # fmt: skip
"""libpq notices a PostgreSQL whose machine or network is gone after 25 s; seconds, and milliseconds for the last."""


@dataclass(frozen=True)
class Environment:
    """What the surroundings say; defaults are for the embedded stack under ``var``."""

    var: Path
    secret_key: str
    debug: bool
    database_url: str
    database_url_owner: str
    database_url_system: str
    artifacts: str
    """fsspec URL of the object storage, without a trailing slash."""
    keystore: Path
    """Folder of the tenants' data keys: on storage of its own, and in no backup of database and artifacts."""
    signing_key: Path
    """Ed25519 private key, PEM."""
    dataplane_url: str
    public_url: str
    lease_s: float
    """Seconds without a sign of life after which an attempt is given up."""
    heartbeat_s: float
    """Seconds between a trainer's signs of life: the most device time that a crash leaves unbilled."""
    trainer_memory_mb: int
    """MiB that one trainer may hold, as the data plane is told; 0: only the trainers know."""
    crash_at: str
    """Name of the crash point at which this process kills itself; tests only."""


def environment(source: Mapping[str, str] = os.environ) -> Environment:
    """Reads and types the environment; raises ImproperlyConfigured naming the variable at fault."""
    var = Path(source.get("TILTH_VAR", ROOT / "var")).absolute()
    return Environment(
        var=var,
        secret_key=_required(source, "TILTH_SECRET_KEY", "any long random text"),
        debug=source.get("TILTH_DEBUG", "") == "1",
        database_url=_required(source, "DATABASE_URL", "the URL of the role tilth_app"),
        database_url_owner=source.get("DATABASE_URL_OWNER", ""),
        database_url_system=_required(source, "DATABASE_URL_SYSTEM", "the URL of the role tilth_system"),
        artifacts=source.get("TILTH_ARTIFACTS", f"file://{var}/artifacts").rstrip("/"),
        keystore=Path(source.get("TILTH_KEYSTORE", var / "keys" / "tenants")),
        signing_key=Path(source.get("TILTH_SIGNING_KEY", var / "keys" / "signing.pem")),
        dataplane_url=source.get("TILTH_DATAPLANE_URL", "http://127.0.0.1:8100").rstrip("/"),
        public_url=source.get("TILTH_PUBLIC_URL", "http://127.0.0.1:8000").rstrip("/"),
        lease_s=_seconds(source, "TILTH_LEASE_S", "30"),
        heartbeat_s=_seconds(source, "TILTH_HEARTBEAT_S", "10"),
        trainer_memory_mb=_whole(source, "TILTH_TRAINER_MEMORY_MB", "0"),
        crash_at=source.get("TILTH_CRASH_AT", ""),
    )


def database(url: str) -> dict[str, object]:
    """A libpq URL as Django's settings of one database; the host may be a socket folder in ``?host=``."""
    parts = urlsplit(url)
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ImproperlyConfigured(f"a database URL starts with postgresql://, found {parts.scheme or url[:12]!r}")
    query = parse_qs(parts.query)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": query.get("host", [parts.hostname or ""])[0],
        "PORT": query.get("port", [str(parts.port or "")])[0],
    }


def _required(source: Mapping[str, str], name: str, what: str) -> str:
    if value := source.get(name, ""):
        return value
    raise ImproperlyConfigured(f"{name} is not set; it must be {what}. `make up` sets it for you")


def _seconds(source: Mapping[str, str], name: str, default: str) -> float:
    text = source.get(name, default)
    try:
        return float(text)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be seconds, found {text!r}") from None


def _whole(source: Mapping[str, str], name: str, default: str) -> int:
    text = source.get(name, default)
    if not text.isdecimal():
        raise ImproperlyConfigured(f"{name} must be a whole number, found {text!r}")
    return int(text)
