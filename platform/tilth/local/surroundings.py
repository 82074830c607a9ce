"""What each child may know: the control plane its database and signing key, the data plane neither."""

from collections.abc import Mapping
from pathlib import Path

from tilth.local.keys import Keys

DATABASES = ("DATABASE_URL", "DATABASE_URL_OWNER", "DATABASE_URL_SYSTEM")
CONTROL_ONLY = (*DATABASES, "TILTH_SECRET_KEY", "TILTH_SIGNING_KEY", "TILTH_KEYSTORE")
"""The data plane holds no credentials of the database, signs nothing and opens what a grant's key opens."""
DATA_ONLY = ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")
"""The control plane does not know the cluster's token."""
QUIET = {
    "PYTHONUNBUFFERED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
SHARED = {"GOMP_SPINCOUNT": "5000"}
"""Trainer and hosts share the cores: a thread that waits for the others soon sleeps instead of spinning."""


class BadSurroundings(RuntimeError):
    """The environment asks for what cannot be; the message names the variable."""


def environment(outer: Mapping[str, str], var: Path, keys: Keys, web_url: str) -> dict[str, str]:
    """What all children start from; what the caller's environment says comes first."""
    _refuse_half_a_database(outer)
    defaults = {
        **QUIET,
        **SHARED,
        "DJANGO_SETTINGS_MODULE": "tilth.settings.dev",
        "TILTH_VAR": str(var),
        "TILTH_SECRET_KEY": keys.secret.read_text(),
        "TILTH_SIGNING_KEY": str(keys.signing),
        "TILTH_VERIFY_KEY": str(keys.verify),
        "TILTH_KEYSTORE": str(var / "keys" / "tenants"),
        "TILTH_ARTIFACTS": f"file://{var / 'artifacts'}",
        "TILTH_PUBLIC_URL": web_url,
    }
    made = {**defaults, **outer}
    if models := outer.get("TILTH_MODELS"):
        made["TILTH_MODELS"] = str(Path(models).absolute())
    return made


def control_plane(env: Mapping[str, str]) -> dict[str, str]:
    """For the web, the worker and management commands."""
    return {name: value for name, value in env.items() if name not in DATA_ONLY}


def data_plane(env: Mapping[str, str]) -> dict[str, str]:
    """For Ray and what runs on it."""
    return {name: value for name, value in env.items() if name not in CONTROL_ONLY}


def _refuse_half_a_database(outer: Mapping[str, str]) -> None:
    given = [name for name in DATABASES if outer.get(name)]
    if missing := [name for name in DATABASES if given and name not in given]:
        raise BadSurroundings(
            f"{' and '.join(given)} given, {' and '.join(missing)} not: the product needs the URLs of three roles "
            "(tilth_app, tilth_owner, tilth_system), or none to bring its own PostgreSQL"
        )
