"""The second door: whatever a body, a query or an address holds, over every route that reads one: 4xx, never 5xx."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tilth.asgi import Entry
from tilth.dataplane.fake_predictions import running
from tilth.usage.prices import prices_sync

from tests.controlplane.gateway_rig import Answer, send
from tests.controlplane.test_cross_tenant import MAKERS, routes
from tests.controlplane.web_rig import api_views

pytestmark = pytest.mark.slow

WRITES = {"POST", "PUT", "PATCH"}
FORM = "application/x-www-form-urlencoded"
MIB = 1 << 20


THIN = {"v1/predictions": ["model", "inputs"], "v1/embeddings": ["model", "input", "encoding_format", "user"]}
"""Routes of the thin app with a JSON body, and its fields."""


def bodied() -> list[tuple[str, str]]:
    """(method, path pattern) of every API route that reads a body, the thin app's among them."""
    found = [("POST", path) for path in THIN]
    for path, view in api_views():
        found += [(method, path) for method in view.scopes if method in WRITES]
    return found


READS_NO_BODY = {"cancel", "pause", "resume", "rotate"}
"""Last words of routes that ignore a body: what one holds cannot matter."""

WITH_JSON = [(method, path) for method, path in bodied() if path.rpartition("/")[2] not in READS_NO_BODY]

NESTED = b"[" * 100_000 + b"]" * 100_000
UNREADABLE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "half": b'{"name": ',
    "deep lists": NESTED,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a deep value": b'{"name": ' + b"[" * 60 + b"]" * 60 + b"}",
    "a huge number": b'{"name": ' + b"9" * 4000 + b"}",
    "a huger number": b'{"name": ' + b"9" * 1_000_000 + b"}",
    "an endless float": b'{"name": 1e999999}',
    "NaN": b'{"name": NaN}',
    "Infinity": b'{"name": -Infinity}',
    "a surrogate": b'{"name": "\\ud800"}',
    "a surrogate as a key": b'{"\\udfff": 1}',
    "a NUL": b'{"name": "a\\u0000b"}',
    "a NUL as a key": b'{"a\\u0000": 1}',
    "a raw NUL": b'{"name": "a\0b"}',
    "a byte order mark": b'\xef\xbb\xbf{"name": "x"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "UTF-32": '{"name": "x"}'.encode("utf-32"),
    "latin-1": '{"name": "é"}'.encode("latin-1"),
    "overlong UTF-8": b'{"name": "\xc0\x80"}',
    "a list": b"[]",
    "a list of objects": b'[{"name": "x"}]',
    "a text": b'"name"',
    "a number": b"7",
    "null": b"null",
    "two values": b"{} {}",
    "a comment": b"{} // nothing",
    "over 2 MiB": b'{"name": "' + b"x" * (2 * MIB) + b'"}',
}
TWICE = b'{"name": 1, "name": 2}'
"""Refused by Django's part. The thin app takes the last one, and passes on what it took: nobody reads the first."""


@pytest.fixture(scope="module")
def url(database: Any) -> Iterator[str]:
    """The real entry behind a real uvicorn."""
    prices_sync()
    with running(Entry()) as found:
        yield found


def address_of(tenant: Any, path: str) -> str:
    kinds = re.findall(r"<str:(\w+)>", path)
    return "/" + (re.sub(r"<str:\w+>", quote(MAKERS[kinds[0]](tenant)), path) if kinds else path)


def refused(answer: Answer) -> bool:
    """A 4xx in OpenAI's shape, with a word of what is wrong."""
    return 400 <= answer.status < 500 and set(answer.body["error"]) >= {"message", "type", "param", "code"}


@pytest.mark.parametrize(("method", "path"), WITH_JSON)
def test_a_body_that_cannot_be_read_is_refused_by_every_route(url: str, tenant: Any, method: str, path: str) -> None:
    address = address_of(tenant, path)
    kind = {"Content-Type": "application/json"}
    answers = {name: send(url, method, address, tenant.key, body, kind) for name, body in UNREADABLE.items()}
    assert {name: (found.status, found.body) for name, found in answers.items() if not refused(found)} == {}
    longest = max(len(found.body["error"]["message"]) for found in answers.values())
    assert longest < 2000, "the error does not repeat the body"


@pytest.mark.parametrize(("method", "path"), [each for each in WITH_JSON if each[1] not in THIN])
def test_a_key_that_stands_twice_and_a_body_of_another_kind_are_refused(
    url: str, tenant: Any, method: str, path: str
) -> None:
    address = address_of(tenant, path)
    twice = send(url, method, address, tenant.key, TWICE, {"Content-Type": "application/json"})
    assert (twice.status, "stands twice" in twice.body["error"]["message"]) == (400, True)
    for kind in ("text/plain", FORM, "multipart/form-data; boundary=x", "application/xml", "image/png"):
        assert send(url, method, address, tenant.key, b'{"name": "x"}', {"Content-Type": kind}).status == 415
    for charset in ("utf-16", "base64", "rot13", "idna", "unicode_escape", "x" * 5000):
        wrong = {"Content-Type": f"application/json; charset={charset}"}
        assert send(url, method, address, tenant.key, b'{"name": "x"}', wrong).status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\0") | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FUZZED = settings(
    derandomize=True, database=None, deadline=None, max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def fields_of(path: str) -> list[str]:
    """The names that a route's body may have, from the serializer it is described with."""
    from tilth.batches.orders import BatchIn
    from tilth.training.orders import JobIn

    orders: dict[str, Any] = {"v1/fine_tuning/jobs": JobIn, "v1/batches": BatchIn}
    if path in orders:
        return sorted(orders[path]().fields)
    if path in THIN:
        return THIN[path]
    return sorted(dict(api_views())[path].In().fields)


@pytest.mark.parametrize(("method", "path"), WITH_JSON)
def test_no_value_of_any_field_is_a_server_error(url: str, tenant: Any, method: str, path: str) -> None:
    address, names = address_of(tenant, path), fields_of(path)

    @FUZZED
    @given(body=st.dictionaries(st.sampled_from(names), JSON, min_size=1))
    def knock(body: dict[str, Any]) -> None:
        sent = json.dumps(body).encode()  # NaN and half surrogates as Python writes them
        answer = send(url, method, address, tenant.key, sent, {"Content-Type": "application/json"})
        assert answer.status < 500, answer.body

    knock()


VALID: dict[str, Callable[[Any], dict[str, Any]]] = {
    "v1/predictions": lambda _: {"model": "ft:test", "inputs": [{"text": "x"}]},
    "v1/embeddings": lambda _: {"model": "minilm-l6", "input": ["x"], "encoding_format": "float", "user": "me"},
    "v1/fine_tuning/jobs": lambda t: {
        "model": "minilm-l6", "training_file": MAKERS["file"](t), "suffix": "x", "metadata": {"a": "b"},
        "vertical": "support_chat", "columns": {"text": "text"}, "seed": 1, "hyperparameters": {"n_epochs": 1},
        "kinds": {"text": "text"},
    },
    "v1/batches": lambda t: {
        "input_file_id": MAKERS["input"](t), "endpoint": "/v1/predictions", "completion_window": "24h",
        "metadata": {"a": "b"}, "output_expires_after": {"anchor": "created_at", "seconds": 3600}, "model": None,
        "columns": None,
    },
    "v1/uploads": lambda _: {"bytes": 10, "filename": "rows.csv", "mime_type": "text/csv", "purpose": "fine-tune"},
    "api/datasets": lambda t: {
        "vertical": "support_chat", "training_file": MAKERS["file"](t), "columns": {"text": "text"}, "seed": 0,
        "kinds": {"text": "text"},
    },
    "api/deployments": lambda t: {"name": "x", "model": MAKERS["model"](t)},
    "api/keys": lambda _: {"name": "x", "scopes": [], "expires_at": None, "monthly_cap_micro_usd": None},
    "api/members": lambda _: {"email": "a@example.org", "role": "viewer"},
    "api/members/<str:member>": lambda _: {"role": "viewer"},
    "api/budget": lambda _: {"limit_micro_usd": 10**9},
    "api/organisations": lambda _: {"name": "x"},
}  # fmt: skip
"""A body for each route that it accepts; one field at a time is spoiled."""

SPOILED = [
    "\0", "a\0b", "\ud800", "x" * 100_000, "\u202e", "'; DROP TABLE x; --", "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00", "é" * 200, f"{'a' * 120}@{'b' * 60}.example.org", -1, 0, 2**31, 2**53 + 1,
    2**63 - 1, 2**63, 2**64, -(2**63), 1e308, float("nan"), float("inf"), True, None, [], {}, [None], [[]],
    {"\0": "x"}, {"a": "\0"}, {"a": {"b": "c"}}, {"x" * 5000: "y"}, ["x"] * 3000, {str(n): "x" for n in range(3000)},
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), WITH_JSON)
def test_a_good_body_with_one_spoiled_field_is_no_server_error(url: str, tenant: Any, method: str, path: str) -> None:
    address, good = address_of(tenant, path), VALID[path](tenant)
    bad = []
    for name in good:
        for value in SPOILED:
            sent = json.dumps({**good, name: value}).encode()
            answer = send(url, method, address, tenant.key, sent, {"Content-Type": "application/json"})
            if answer.status >= 500 and path not in THIN:
                bad.append((name, str(value)[:40], answer.status))
    assert bad == []


def test_a_model_name_with_a_nul_is_refused_before_the_database_sees_it(url: str, tenant: Any) -> None:
    sent = json.dumps({"model": "ft:\0", "inputs": [{"text": "x"}]}).encode()
    answer = send(url, "POST", "/v1/predictions", tenant.key, sent)
    assert (answer.status, answer.body["error"]["param"]) == (400, "model")


ODD = [
    "", "\0", "a\0b", "-1", "0", "9" * 30, "9" * 5000, "file-" + "0" * 32, "0001-01-01", "9999-12-31",
    "2999-12", "0001-01", "9999-12", "nan", "[]", '{"a": "\\u0000"}', '{"text": "\\ud800"}', "[" * 100_000, "{" * 500,
    "x" * 9000, "support_chat", "\u202e", "1e999",
]  # fmt: skip


@pytest.mark.parametrize("path", [path for path, _ in api_views()])
def test_no_query_is_a_server_error(tenant: Any, path: str) -> None:
    address = address_of(tenant, path)
    document = tenant.client.get("/v1/openapi.json" if path.startswith("v1/") else "/api/schema").json()
    told = document["paths"]["/" + path.replace("<str:", "{").replace(">", "}")].get("get", {}).get("parameters", [])
    for name in [*(each["name"] for each in told if each["in"] == "query"), "metadata[a]", "metadata[\0]"]:
        for value in ODD:
            answer = tenant.client.get(address, {name: value})
            assert answer.status_code < 500, (name, value[:30])


@pytest.mark.parametrize("charset", ["base64", "rot13", "utf-16", "unicode_escape"])
def test_a_charset_of_pythons_own_is_refused_and_not_applied(url: str, tenant: Any, charset: str) -> None:
    kind = {"Content-Type": f"text/plain; charset={charset}"}
    for address in ("/v1/models", "/v1/fine_tuning/jobs?after=x", "/accounts/login/"):
        answer = send(url, "GET", address, tenant.key, b"", kind)
        assert (answer.status, answer.code) == (400, "bad_charset")


ADDRESSES = [
    "%00",
    "a%00b",
    "%ff",
    "%ed%a0%80",
    "..%2f..%2fetc",
    "%2e%2e",
    "x" * 5000,
    "%E2%80%AE",
    "'",
    "0x" + "0" * 30,
]
ANY_PATH = sorted({path for path, _ in routes() if "<" in path})


@pytest.mark.parametrize("path", ANY_PATH)
def test_no_address_is_a_server_error_on_any_route_or_page(tenant: Any, path: str) -> None:
    for text in ADDRESSES:
        address = "/" + re.sub(r"<str:\w+>", lambda _, text=text: text, path)  # type: ignore[misc]
        for client in (tenant.client, tenant.browser):
            for method in ("GET", "POST", "DELETE"):
                answer = client.generic(method, address, "{}", content_type="application/json")
                assert answer.status_code < 500, (method, address[:80])


FORMS = sorted({path for path, _ in routes() if not path.startswith(("api/", "v1/"))})


@pytest.mark.parametrize("path", FORMS)
def test_no_form_is_a_server_error_on_any_page(tenant: Any, path: str) -> None:
    names = ["name", "model", "training_file", "suffix", "column-text", "column-label", "accept_bad_rows", "\0"]
    address = address_of(tenant, path.replace("<str:action>", "cancel"))
    for value in ("", "\0", "x" * 10_000, "\u202e", "<script>alert(1)</script>", "\ud7ff"):
        answer = tenant.browser.post(address, dict.fromkeys(names, value))
        assert answer.status_code < 500
        assert "<script>alert" not in answer.content.decode(errors="replace")


def test_what_is_not_there_is_told_to_programs_in_json_and_to_people_on_a_page(tenant: Any) -> None:
    for address in ("/v1/nowhere", "/api/nowhere", "/v1/", "/api/keys/x/y/z"):
        answer = tenant.client.get(address)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert tenant.browser.get("/nowhere")["Content-Type"].startswith("text/html")


def test_a_bug_of_ours_tells_programs_nothing_but_that_it_was_noted(
    tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.test import Client

    def broken(**_: Any) -> None:
        raise RuntimeError("a secret of the server's")

    monkeypatch.setattr("tilth.tenants.selectors.key_list", broken)
    client = Client(headers={"Authorization": f"Bearer {tenant.key}"}, raise_request_exception=False)
    answer = client.get("/api/keys")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.content.decode()


@pytest.mark.parametrize(("method", "path"), [("GET", "v1/predictions"), ("PUT", "v1/files"), ("PUT", "api/keys")])
def test_a_method_that_is_not_there_is_a_405_that_names_those_that_are(
    url: str, tenant: Any, method: str, path: str
) -> None:
    answer = send(url, method, f"/{path}", tenant.key, b"")
    assert answer.status == 405
    allowed = {name.strip() for name in answer.headers.get("Allow", answer.headers.get("allow", "")).split(",")}
    assert "POST" in allowed
    assert method not in allowed


def test_what_may_be_read_may_be_asked_for_by_its_head(tenant: Any) -> None:
    assert tenant.client.head("/v1/models").status_code == 200


def test_every_route_with_a_body_has_a_good_one_here() -> None:
    assert {path for _, path in WITH_JSON} == set(VALID)
