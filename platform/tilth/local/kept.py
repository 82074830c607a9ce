"""Where a product keeps what a backup must hold: database, objects, keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tilth.local.manifest import BackupRefused
from tilth.local.places import cluster_folder, programs_folder, socket_folder
from tilth.local.postgres import ADMIN, APP, OWNER, SYSTEM, Postgres, binaries, server_user
from tilth.local.surroundings import DATABASES


@dataclass(frozen=True)
class Kept:
    """Addresses, for backup and restore alike."""

    artifacts: str
    """fsspec URL without a trailing slash."""
    keystore: Path
    secrets: dict[str, Path]
    """Name in the mirror → where the product reads it."""
    programs: Path
    """PostgreSQL's ``bin``."""
    server: Postgres | None
    """The embedded one; None where DATABASE_URL names another."""
    admin_url: str
    urls: dict[str, str]
    """DATABASE_URL and its kin, where the environment names them."""

    def roles(self) -> dict[str, str]:
        """The same for whichever server it is."""
        if self.server is None:
            return self.urls
        return {name: self.server.url(role) for name, role in zip(DATABASES, (APP, OWNER, SYSTEM), strict=True)}

    def database(self) -> str:
        """URL of a superuser, who alone sees every tenant's rows."""
        return self.server.url(ADMIN) if self.server else self.admin_url


def kept(var: Path, env: Mapping[str, str]) -> Kept:
    """By what the environment says, or below ``var``; raises BackupRefused where a superuser's URL is missing."""
    keys = var / "keys"
    names = {"signing.pem": "TILTH_SIGNING_KEY", "verify.pem": "TILTH_VERIFY_KEY"}
    secrets = {name: Path(env.get(variable, keys / name)) for name, variable in names.items()}
    return Kept(
        artifacts=env.get("TILTH_ARTIFACTS", f"file://{var / 'artifacts'}").rstrip("/"),
        keystore=Path(env.get("TILTH_KEYSTORE", keys / "tenants")),
        secrets={**secrets, "secret": keys / "secret"},
        programs=programs_folder(binaries(), var, server_user()),
        server=None if any(env.get(name) for name in DATABASES) else _embedded(var),
        admin_url=_admin_url(env),
        urls={name: env[name] for name in DATABASES if env.get(name)},
    )


def _embedded(var: Path) -> Postgres:
    user = server_user()
    folder = cluster_folder(var, user)
    programs = programs_folder(binaries(), var, user)
    return Postgres(folder, sockets=socket_folder(folder, var), programs=programs)


def _admin_url(env: Mapping[str, str]) -> str:
    given = any(env.get(name) for name in DATABASES)
    if given and not env.get("DATABASE_URL_ADMIN"):
        raise BackupRefused(
            "DATABASE_URL names a PostgreSQL of your own: set DATABASE_URL_ADMIN to the URL of a superuser of the same "
            "database, since row-level security hides tenants' rows from everybody else"
        )
    return env.get("DATABASE_URL_ADMIN", "")
