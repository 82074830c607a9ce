"""Every route, every method, with one's own id, another organisation's and a random one: the last two look alike.

Routes are read from Django's resolver; one that is not classified here fails, so that a new route is covered by itself.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from tilth.core.ids import uuid7
from tilth.core.scope import tenant_scope

Make = Callable[[Any], str]

# Routes that touch no organisation's objects, each with its reason.
OPEN = {
    "api/schema": "the description of the management API",
    "v1/openapi.json": "the description of the OpenAI-compatible API",
    "": "the pages' first; asks for a session",
    "organisations": "the signed-in person's own organisations",
    "browser-key": "makes a key for the caller's own organisation",
    "v1/uploads": "opens an upload of the caller's own organisation",
}
THIN = {
    ("POST", "/v1/predictions"): "test_gateway_predictions.py: another tenant's model is as unknown as nobody's",
    ("POST", "/v1/embeddings"): "test_gateway_embeddings.py: the same of embeddings",
    ("POST", "/v1/files"): "makes a file of the caller's own organisation",
    ("POST", "/v1/uploads/*/parts"): "datasets/test_gateway_parts.py: another tenant's upload looks like none",
    ("POST", "/v1/uploads/*/complete"): "the same test; its part_ids, too",
    ("GET", "/healthz"): "whether the service is there",
}
"""Routes of the thin app, which has no resolver to walk, each with its test or its reason."""
PAGES = {"keys", "files", "jobs", "models", "batches", "usage"}
"""Lists of the session's own organisation."""

LISTS = {
    "api/organisation", "api/organisations", "api/members", "api/keys", "api/audit", "api/verticals", "api/datasets",
    "api/deployments", "api/usage", "api/usage/events", "api/budget", "api/ledger", "api/invoice",
    "v1/files", "v1/fine_tuning/jobs", "v1/models", "v1/batches",
}  # fmt: skip
"""Routes without an id in the path: they answer for the caller's own organisation."""

BODIES: list[tuple[str, str, str, str]] = [
    # method, route, field that names an object, kind of the object
    ("POST", "/v1/fine_tuning/jobs", "training_file", "file"),
    ("POST", "/v1/fine_tuning/jobs", "validation_file", "file"),
    ("POST", "/v1/batches", "input_file_id", "file"),
    ("POST", "/v1/batches", "model", "model"),
    ("POST", "/api/datasets", "training_file", "file"),
    ("POST", "/api/datasets", "test_file", "file"),
    ("POST", "/api/deployments", "model", "model"),
]
CURSORS = [
    ("/v1/files", "file"),
    ("/v1/fine_tuning/jobs", "job"),
    ("/api/datasets", "dataset"),
    ("/v1/batches", "batch"),
]


def routes() -> Iterator[tuple[str, Any]]:
    """(path pattern, view) of every route that is ours."""

    def walk(patterns: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for each in patterns:
            path = prefix + str(each.pattern)
            if isinstance(each, URLResolver):
                if not path.startswith("accounts/"):  # allauth's own pages: a person's, not an organisation's
                    yield from walk(each.url_patterns, path)
            elif isinstance(each, URLPattern):
                yield path, each.callback

    yield from walk(get_resolver().url_patterns)


def _file(tenant: Any, purpose: str = "fine-tune") -> str:
    from tilth.core.storage import put_stream
    from tilth.datasets.services import file_create, file_path

    rows = "text,label\n" + "".join(f"message {n},{'ab'[n % 2]}\n" for n in range(20))
    file = uuid7()
    stored = put_stream(file_path(tenant.id, file), [rows.encode()])
    made = file_create(
        tenant=tenant.id, by=tenant.principal, file=file, filename="rows.csv", purpose=purpose, stored=stored
    )
    return f"file-{made.id.hex}"


def _batch(tenant: Any) -> str:
    from tilth.batches.services import Order, batch_create
    from tilth.batches.states import Endpoint

    order = Order(input_file=UUID(_file(tenant, "batch")[5:]), endpoint=Endpoint.PREDICTIONS)
    return f"batch-{batch_create(tenant=tenant.id, by=tenant.principal, order=order).hex}"


def _job(tenant: Any) -> str:
    from tilth.training.services import Order, job_create

    order = Order(vertical="support_chat", base_model="minilm-l6", training_file=UUID(_file(tenant)[5:]))
    return f"ftjob-{job_create(tenant=tenant.id, by=tenant.principal, order=order).hex}"


def _dataset(tenant: Any) -> str:
    from tilth.datasets.models import DatasetVersion

    with tenant_scope(tenant.id):
        made = DatasetVersion.objects.create(
            training_file_id=UUID(_file(tenant)[5:]), vertical="support_chat", columns={"text": "text"}, options={},
            sha256="0" * 64, bytes=1, path="nowhere", rows=1, splits={"train": 1}, report={}, recipe=uuid7().hex * 2,
        )  # fmt: skip
    return f"dsv-{made.id.hex}"


def _model(tenant: Any) -> str:
    from tilth.registry.models import Model

    name = f"ft:minilm-l6:org::{uuid7().hex[-8:]}"
    with tenant_scope(tenant.id):
        Model.objects.create(
            name=name, job_id=UUID(_job(tenant)[6:]), version_id=UUID(_dataset(tenant)[4:]), version_sha256="0" * 64,
            vertical="support_chat", base_model="minilm-l6", base_revision="x", path="nowhere/", digest="sha256:0",
            rung="probe", metrics={}, report={}, card="",
        )  # fmt: skip
    return name


def _deployment(tenant: Any) -> str:
    from tilth.registry.models import Model
    from tilth.serving.models import Deployment

    name = _model(tenant)
    with tenant_scope(tenant.id):
        made = Deployment.objects.create(name=name, model=Model.objects.get(name=name))
    return f"dpl-{made.id.hex}"


def _check(tenant: Any) -> str:
    from tilth.datasets.checking import check_create
    from tilth.datasets.recipes import Request

    wish = Request(vertical="support_chat", training_file=UUID(_file(tenant)[5:]))
    return f"check-{check_create(tenant=tenant.id, request=wish, freeze=False).id.hex}"


def _key(tenant: Any) -> str:
    from tilth.tenants.services import key_create

    return f"key-{key_create(tenant=tenant.id, by=tenant.principal, name='x')[0].id.hex}"


def _upload(tenant: Any) -> str:
    from tilth.datasets.uploading import upload_create

    made = upload_create(tenant=tenant.id, by=tenant.principal, filename="rows.csv", purpose="fine-tune", size=1)
    return f"upload-{made.id.hex}"


def _member(tenant: Any) -> str:
    from tilth.tenants.selectors import member_list

    return f"member-{member_list(tenant=tenant.id)[0][0].id.hex}"


MAKERS: dict[str, Make] = {
    "file": _file, "job": _job, "dataset": _dataset, "model": _model, "deployment": _deployment, "check": _check,
    "input": lambda tenant: _file(tenant, "batch"), "batch": _batch, "upload": _upload, "key": _key, "member": _member,
    "organisation": lambda tenant: f"org-{tenant.id.hex}",
}  # fmt: skip
ACTION = {"<str:action>": "cancel"}


def object_routes() -> list[tuple[str, str, str]]:
    """(method, path pattern, kind) of every API route with an object in its path."""
    found = []
    for path, view in routes():
        if not path.startswith(("api/", "v1/")) or "<" not in path:
            continue
        kinds = re.findall(r"<str:(\w+)>", path)
        scopes = view.view_class.scopes
        found += [(method, path, kinds[0]) for method in scopes]
    return found


def filled(path: str, value: str) -> str:
    return "/" + re.sub(r"<str:\w+>", value, path, count=1)


def random_like(public: str) -> str:
    if public.startswith("ft:"):
        return f"{public[:-8]}{uuid7().hex[-8:]}"
    return f"{public.rpartition('-')[0]}-{uuid7().hex}"


def answer(tenant: Any, method: str, url: str, body: Any = None) -> tuple[int, str]:
    reply = tenant.client.generic(method, url, json.dumps(body or {}), content_type="application/json")
    content = b"".join(reply.streaming_content) if reply.streaming else reply.content
    return reply.status_code, content.decode()


def test_every_route_is_classified() -> None:
    unknown = []
    for path, _ in routes():
        kinds = re.findall(r"<str:(\w+)>", path)
        known = path in LISTS or path in OPEN or path in PAGES or path.startswith("static")
        if not known and not (kinds and kinds[0] in MAKERS):
            unknown.append(path)
    assert unknown == [], "classify these routes, so that they are tested for two organisations"


async def test_every_route_of_the_thin_app_is_classified() -> None:
    from tilth.gateway.app import gateway_from_settings

    gateway = gateway_from_settings()
    await gateway.stop()
    assert set(gateway.routes) == set(THIN)


@pytest.mark.parametrize(("method", "path", "kind"), object_routes())
def test_another_organisations_object_looks_like_none(
    tenant: Any, other_tenant: Any, method: str, path: str, kind: str
) -> None:
    theirs = MAKERS[kind](other_tenant)
    nobodys = random_like(theirs)
    seen = [answer(tenant, method, filled(path, value), VALID.get((method, path))) for value in (theirs, nobodys)]
    assert [status for status, _ in seen] == [404, 404]
    assert seen[0][1].replace(theirs, "ID") == seen[1][1].replace(nobodys, "ID")


@pytest.mark.parametrize(("method", "path", "kind"), [r for r in object_routes() if r[0] == "GET"])
def test_ones_own_object_is_found(tenant: Any, method: str, path: str, kind: str) -> None:
    status, body = answer(tenant, method, filled(path, MAKERS[kind](tenant)))
    assert (status, "No such" in body) == (200, False)


VALID: dict[tuple[str, str], Any] = {("PATCH", "api/members/<str:member>"): {"role": "viewer"}}


@pytest.mark.parametrize(("method", "url", "field", "kind"), BODIES)
def test_another_organisations_object_cannot_be_named_in_a_body(
    tenant: Any, other_tenant: Any, method: str, url: str, field: str, kind: str
) -> None:
    theirs = MAKERS[kind](other_tenant)
    nobodys = random_like(theirs)
    seen = []
    for value in (theirs, nobodys):
        body = {"model": "minilm-l6", "vertical": "support_chat", "training_file": _file(tenant), field: value}
        if "batches" in url:
            asked = {"endpoint": "/v1/predictions", "completion_window": "24h"}
            body = {"input_file_id": _file(tenant, "batch"), **asked, field: value}
        if "datasets" in url:
            del body["model"]
        if "deployments" in url:
            body = {"model": value, "name": "x"}
        status, text = answer(tenant, method, url, body)
        seen.append((status, text.replace(value, "ID")))
    assert seen[0][0] == 404
    assert seen[0] == seen[1]


@pytest.mark.parametrize(("url", "kind"), CURSORS)
def test_another_organisations_object_is_no_cursor(tenant: Any, other_tenant: Any, url: str, kind: str) -> None:
    theirs = MAKERS[kind](other_tenant)
    nobodys = random_like(theirs)
    seen = [answer(tenant, "GET", f"{url}?after={value}") for value in (theirs, nobodys)]
    assert seen[0][1].replace(theirs, "ID") == seen[1][1].replace(nobodys, "ID")
    assert seen[0][0] == seen[1][0] != 200


@pytest.mark.parametrize("path", sorted(LISTS))
def test_no_list_shows_another_organisations_objects(tenant: Any, other_tenant: Any, path: str) -> None:
    marks = [MAKERS[kind](other_tenant) for kind in ("file", "job", "batch", "key", "deployment")]
    status, body = answer(tenant, "GET", f"/{path}")
    assert status == 200
    assert [mark for mark in [*marks, other_tenant.name, other_tenant.id.hex] if mark in body] == []


@pytest.mark.parametrize(
    "path", ["", "keys", "files", "jobs", "models", "batches", "usage", "files/{file}", "jobs/{job}", "models/{model}"]
)
def test_pages_show_ones_own_and_hide_anothers(tenant: Any, other_tenant: Any, path: str) -> None:
    kind = path.partition("{")[2].rstrip("}")
    own, theirs = (MAKERS[kind](each) if kind else "" for each in (tenant, other_tenant))
    head = path.partition("{")[0]
    assert tenant.browser.get(f"/{head}{own}").status_code == 200
    if kind:
        assert tenant.browser.get(f"/{head}{theirs}").status_code == 404


@pytest.mark.parametrize("path", sorted(LISTS - {"api/verticals"}))
def test_nobody_gets_in_without_a_key(database: Any, path: str) -> None:
    from django.test import Client

    assert Client().get(f"/{path}").status_code == 401
