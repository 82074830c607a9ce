"""The whole web process in a thread: the real entry behind a real uvicorn, over the faked predictions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tilth import asgi
from tilth.dataplane.access import grants
from tilth.dataplane.fake_predictions import FakePredictions, running
from tilth.dataplane.keys import signing_key
from tilth.dataplane.tokens import Tokens
from tilth.gateway.app import Gateway
from tilth.gateway.upstream import Upstream
from tilth.settings.base import ENV
from tilth.usage.prices import prices_sync

from tests.controlplane.test_cross_tenant import routes


def api_views() -> list[tuple[str, Any]]:
    """(path pattern, view class) of every route of both APIs that Django has; a new one is there by itself."""
    found = [(path, getattr(view, "view_class", None)) for path, view in routes() if path.startswith(("api/", "v1/"))]
    return [(path, view) for path, view in found if hasattr(view, "scopes")]


@contextmanager
def running_web() -> Iterator[str]:
    """Yields its URL; needs the database fixture."""
    prices_sync()
    with running(FakePredictions(signing_key().public_key())) as plane, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            asgi, "gateway_from_settings",
            lambda: Gateway(ENV.database_url, Upstream(plane, Tokens(signing_key()), grants())),
        )  # fmt: skip
        with running(asgi.Entry()) as url:
            yield url
