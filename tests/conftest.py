"""What all tests share: one real PostgreSQL with the real roles, an artifacts folder, organisations made on demand."""

import atexit
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tilth.local.postgres import APP, OWNER, SYSTEM, Postgres

from tests.product import Product, running_product

# Before torch is imported: two halves of the tests share two cores, and threads that wait for each other spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(tempfile.mkdtemp(prefix="tilth-t-"))
HOME.chmod(0o755)
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
SERVER = Postgres(HOME / "pg", fast=True)


def _set_environment() -> None:
    """The server's address is known before it runs, so settings can be read when tests are collected."""
    SERVER.folder.mkdir()
    key = Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (HOME / "signing.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (HOME / "verify.pem").write_bytes(public)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "tilth.settings.test",
        "TILTH_VAR": str(HOME / "var"),
        "TILTH_SECRET_KEY": "only-for-tests",
        "TILTH_SIGNING_KEY": str(HOME / "signing.pem"),
        "TILTH_VERIFY_KEY": str(HOME / "verify.pem"),
        "TILTH_ARTIFACTS": f"file://{HOME}/artifacts",
        "DATABASE_URL": SERVER.url(APP),
        "DATABASE_URL_OWNER": SERVER.url(OWNER),
        "DATABASE_URL_SYSTEM": SERVER.url(SYSTEM),
    }


def pytest_configure(config: pytest.Config) -> None:
    """Makes Django's models importable by the test modules."""
    _set_environment()
    import django
    from django.test.utils import setup_test_environment

    django.setup()
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    setup_test_environment()


@pytest.fixture(scope="session")
def database() -> Iterator[Postgres]:
    """The migrated database; transactions commit, tests make tenants of their own instead of cleaning."""
    SERVER.start()
    try:
        migrate = [sys.executable, "-W", "ignore", str(ROOT / "manage.py"), "migrate", "--database", "owner", "-v", "0"]
        subprocess.run(migrate, check=True, env=os.environ | {"DJANGO_SETTINGS_MODULE": "tilth.settings.test"})
        yield SERVER
    finally:
        from django.db import connections

        connections.close_all()
        for alias in ("default", "system"):
            connections[alias].close_pool()  # type: ignore[attr-defined]
        SERVER.stop()


@pytest.fixture(scope="session")
def stack() -> Iterator[Product]:
    """The whole product, for all tests that only use it or leave it as they found it."""
    with running_product() as product:
        yield product


@pytest.fixture(autouse=True)
def _no_connection_is_left() -> Iterator[None]:
    """Gives pooled connections back, so that no test's warning is blamed on the next."""
    yield
    from django.db import connections

    connections.close_all()


def _connection(server: Postgres, role: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.url(role), autocommit=True) as connection:
        yield connection


@pytest.fixture
def owner_db(database: Postgres) -> Iterator[psycopg.Connection]:
    """A connection of the role that owns the tables; FORCE hides rows from it too."""
    yield from _connection(database, OWNER)


@pytest.fixture
def app_db(database: Postgres) -> Iterator[psycopg.Connection]:
    """A connection of the role the product works as."""
    yield from _connection(database, APP)


@pytest.fixture
def sums_db(database: Postgres) -> Iterator[psycopg.Connection]:
    """A superuser's connection that sees every row: for checking sums, never for acting."""
    yield from _connection(database, "postgres")


@pytest.fixture
def clean_database(sums_db: psycopg.Connection) -> None:
    """Empties every tenant's table first, for tests of what looks across tenants."""
    tables = [
        name
        for (name,) in sums_db.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relforcerowsecurity"
        )
    ]
    sums_db.execute("TRUNCATE " + ", ".join(f'"{name}"' for name in [*tables, "procrastinate_jobs"]) + " CASCADE")


@pytest.fixture
def artifacts() -> Path:
    """The folder behind TILTH_ARTIFACTS."""
    folder = HOME / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder


@dataclass(frozen=True)
class Tenant:
    """An organisation with its owner and a key that may do everything."""

    id: UUID
    name: str
    owner: Any
    principal: Any
    key: str

    @cached_property
    def client(self) -> Any:
        """Django's test client, calling with the key."""
        from django.test import Client

        return Client(headers={"Authorization": f"Bearer {self.key}"}, raise_request_exception=True)

    @cached_property
    def browser(self) -> Any:
        """Django's test client, signed in as the owner."""
        from django.test import Client

        client = Client()
        client.force_login(self.owner, backend="allauth.account.auth_backends.AuthenticationBackend")
        return client


@pytest.fixture
def make_tenant(database: Postgres) -> Callable[[], Tenant]:
    """Makes a fresh organisation at each call."""

    def make() -> Tenant:
        from tilth.accounts.models import User
        from tilth.tenants import selectors, services
        from tilth.tenants.scopes import Scope

        name = f"Org {uuid4().hex[:8]}"
        owner = User.objects.create_user(f"{uuid4().hex}@example.org", "a long password")
        tenant = services.organisation_create(name=name, owner=owner.id)
        principal = selectors.principal_of_user(owner.id, tenant)
        assert principal is not None
        scopes = frozenset(Scope)
        _, text = services.key_create(tenant=tenant, by=principal, name="all", scopes=scopes)
        return Tenant(tenant, name, owner, principal, text.secret)

    return make


@pytest.fixture
def tenant(make_tenant: Callable[[], Tenant]) -> Tenant:
    """A fresh organisation."""
    return make_tenant()


@pytest.fixture
def other_tenant(make_tenant: Callable[[], Tenant]) -> Tenant:
    """Another one, which must not learn that the first one exists."""
    return make_tenant()
