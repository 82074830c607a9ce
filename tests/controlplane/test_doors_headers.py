"""The first door: whatever the Authorization and Host headers hold, over every route and over a raw socket."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tilth.asgi import Entry
from tilth.dataplane.fake_predictions import running
from tilth.gateway import database as gateway_database
from tilth.tenants.authentication import MISSING
from tilth.tenants.keys import new_key
from tilth.tenants.selectors import WRONG_KEY

from tests.controlplane.web_rig import api_views

pytestmark = pytest.mark.slow

THIN = [
    ("POST", "/v1/predictions"), ("POST", "/v1/files"), ("POST", "/v1/uploads/x-0/parts"),
    ("POST", "/v1/uploads/x-0/complete"),
]  # fmt: skip
"""The thin app's routes, which no URL conf of Django's names."""
FOREIGN = "evil.example"
QUICK = settings(
    derandomize=True, database=None, deadline=None, max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def api_methods() -> list[tuple[str, str]]:
    """(method, address) of every route of both APIs; an id in it is nobody's."""
    found = list(THIN)
    for path, view in api_views():
        address = "/" + path.partition("<")[0] + ("x-0" if "<" in path else "") + path.partition(">")[2]
        found += [(method, address) for method in view.scopes]
    return found


@pytest.fixture(scope="module")
def door(database: Any) -> Iterator[tuple[str, int]]:
    """(host, port) of the real entry behind a real uvicorn."""
    with running(Entry()) as url:
        parts = urlsplit(url)
        yield str(parts.hostname), int(parts.port or 0)


def said(door: tuple[str, int], request: bytes) -> bytes:
    """All that is answered to raw bytes, until the server closes or is silent."""
    with socket.create_connection(door, timeout=10) as wire:
        wire.sendall(request)
        parts = []
        try:
            while part := wire.recv(1 << 16):
                parts.append(part)
                if whole(b"".join(parts)):
                    break
        except ConnectionResetError:
            pass
    return b"".join(parts)


def whole(answer: bytes) -> bool:
    """Whether a head and a body of its content-length are there, and the connection is kept."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(lengths) and b"connection: close" not in head.lower() and len(body) >= int(lengths[0].split(b":")[1])


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def asked(method: str, address: str, *lines: bytes, host: bytes = b"localhost") -> bytes:
    head = [f"{method} {address} HTTP/1.1".encode(), b"Host: " + host, *lines, b"Content-Length: 0", b"", b""]
    return b"\r\n".join(head)


def test_every_route_of_both_apis_is_knocked_at() -> None:
    assert len(api_methods()) > 40


# What HTTP lets through in a header's value: visible ASCII, blanks, and bytes beyond ASCII.
VALUE = st.binary(min_size=0, max_size=80).map(lambda raw: bytes(b for b in raw if b == 9 or 32 <= b != 127))
GOOD_KEY = new_key().secret.encode()
ALMOST = st.sampled_from(
    [
        b"Bearer", b"Bearer ", b"bearer x", b"Basic dXNlcjpwYXNz", b"Bearer " + GOOD_KEY[:-1] + b"0",
        b"Bearer  " + GOOD_KEY[:-2], b"Bearer " + GOOD_KEY + b"," + GOOD_KEY, b"Bearer " + GOOD_KEY + b" " + GOOD_KEY,
        b"Bearer\t" + GOOD_KEY, GOOD_KEY, b"Bearer " + GOOD_KEY.upper(), b"Bearer " + GOOD_KEY + b"\xa0",
        b"Bearer tilth_live_" + b"9" * 60_000, b"Bearer \xff\xfe", b"Token " + GOOD_KEY, b"Bearer " + GOOD_KEY * 2,
    ]
)  # fmt: skip
HEADER = st.one_of(VALUE, VALUE.map(b"Bearer ".__add__), ALMOST)


@pytest.mark.parametrize(("method", "address"), api_methods())
def test_no_header_but_a_good_key_opens_any_route_and_none_costs_a_query(
    door: tuple[str, int], method: str, address: str
) -> None:
    seen: set[tuple[int, str]] = set()
    for value in [b"", b"Bearer nonsense", b"Basic eA==", b"Bearer \xff\xfe", b"Bearer " + GOOD_KEY[:-1] + b"!"]:
        lines = [b"Authorization: " + value] if value else []
        answer = said(door, asked(method, address, *lines))
        if method == "HEAD":
            continue
        body = body_of(answer)
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        seen.add((status_of(answer), body["error"]["message"]))
    assert seen <= {(401, MISSING), (401, WRONG_KEY)}


@pytest.fixture
def query_count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each use of the gateway's connections."""
    found: list[int] = []
    real = gateway_database.together

    async def counted(*args: Any) -> Any:
        found.append(1)
        return await real(*args)

    monkeypatch.setattr("tilth.gateway.auth.together", counted)
    return found


@QUICK
@given(value=HEADER)
def test_a_wrong_authorization_header_is_a_401_at_the_thin_app_without_a_query(
    door: tuple[str, int], query_count: list[int], value: bytes
) -> None:
    answer = said(door, asked("POST", "/v1/predictions", b"Authorization: " + value))
    if len(value) > 60_000:
        assert status_of(answer) in (400, 401, 431)
        return
    assert (status_of(answer), query_count) == (401, [])
    assert body_of(answer)["error"]["message"] in (MISSING, WRONG_KEY)
    assert b"www-authenticate: bearer" in answer.lower()


@QUICK
@given(value=HEADER)
def test_a_wrong_authorization_header_is_a_401_in_django_without_a_query(database: Any, value: bytes) -> None:
    from django.test import Client

    with CaptureQueriesContext(connection) as queries:
        answer = Client().get("/api/keys", headers={"Authorization": value.decode("latin-1")})
    assert (answer.status_code, len(queries)) == (401, 0)
    assert answer.json()["error"]["message"] in (MISSING, WRONG_KEY)
    assert answer["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("address", ["/v1/predictions", "/v1/models"])
def test_a_good_key_sent_in_two_headers_is_refused(door: tuple[str, int], tenant: Any, address: str) -> None:
    line = b"Authorization: Bearer " + tenant.key.encode()
    method = "POST" if "predict" in address else "GET"
    answer = said(door, asked(method, address, line, line))
    assert (status_of(answer), body_of(answer)["error"]["message"]) == (401, WRONG_KEY)


def test_spaces_around_a_good_key_are_let_in_alike_by_both_apps(door: tuple[str, int], tenant: Any) -> None:
    line = b"Authorization: bearer   " + tenant.key.encode() + b"  "
    assert status_of(said(door, asked("GET", "/v1/models", line))) == 200
    assert status_of(said(door, asked("POST", "/v1/predictions", line))) == 400, "past the door: the body is missing"


def test_a_nul_in_a_header_is_refused_by_the_server_itself(door: tuple[str, int]) -> None:
    answer = said(door, asked("POST", "/v1/predictions", b"Authorization: Bearer a\0b"))
    assert status_of(answer) == 400


HOSTS = [
    b"evil.example", b"evil.example:80", b"", b"localhost, evil.example", b"localhost@evil.example", b"[::1", b"[::2]",
    b"localhost:evil", b"localhost:80@evil.example", b"LOCALHOST.evil.example", b"127.0.0.1.evil.example", b"\xff",
    b"evil.example#localhost", b"evil.example\\localhost", b"localhost/../evil.example", b".", b"localhost:80:80",
]  # fmt: skip
PLACES = ["/", "/v1/models", "/v1/predictions", "/v1/files", "/api/keys", "/accounts/login/", "/api/schema", "/nowhere"]


@pytest.mark.parametrize("address", PLACES)
def test_a_foreign_host_is_a_400_everywhere_and_is_never_repeated(door: tuple[str, int], address: str) -> None:
    method = "POST" if address == "/v1/predictions" else "GET"
    for host in HOSTS:
        answer = said(door, asked(method, address, host=host))
        assert (host, status_of(answer)) == (host, 400)
        assert FOREIGN.encode() not in answer.lower()


@pytest.mark.parametrize("address", PLACES)
def test_a_host_that_is_missing_or_stands_twice_is_a_400(door: tuple[str, int], address: str) -> None:
    twice = b"GET %s HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n" % address.encode()
    none = b"GET %s HTTP/1.1\r\n\r\n" % address.encode()
    assert [status_of(said(door, each)) for each in (twice, none)] == [400, 400]


@pytest.mark.parametrize("address", ["/", "/accounts/login/", "/v1/models", "/nowhere"])
def test_an_absolute_address_names_no_host_that_is_repeated(door: tuple[str, int], address: str) -> None:
    answer = said(door, asked("GET", f"http://{FOREIGN}{address}"))
    assert status_of(answer) < 500
    assert FOREIGN.encode() not in answer.lower()


@pytest.mark.parametrize(
    "name", [b"X-Forwarded-Host", b"Forwarded", b"X-Original-URL", b"X-Host", b"Referer", b"Origin", b"X-Forwarded-For"]
)
def test_no_other_header_brings_a_foreign_host_into_a_page_or_a_redirect(door: tuple[str, int], name: bytes) -> None:
    for address in ("/", "/accounts/login/", "/keys", "/v1/models"):
        answer = said(door, asked("GET", address, name + b": http://evil.example/"))
        assert FOREIGN.encode() not in answer.lower()


def test_a_refused_form_goes_back_to_a_page_of_ours_only(tenant: Any) -> None:
    for referer, back in (("http://evil.example/jobs", "/"), ("http://testserver/jobs?x=1", "/jobs"), ("", "/")):
        answer = tenant.browser.post("/jobs", {}, headers={"Referer": referer})
        assert (answer.status_code, answer["Location"]) == (302, back)


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
TWO_READINGS = {
    "both lengths": [b"Content-Length: 4", CHUNKED],
    "both lengths, the other way": [CHUNKED, b"Content-Length: 4"],
    "two content lengths": [b"Content-Length: 4", b"Content-Length: 44"],
    "a list of content lengths": [b"Content-Length: 4, 44"],
    "a signed content length": [b"Content-Length: +4"],
    "a hexadecimal content length": [b"Content-Length: 0x4"],
    "a folded header": [b"X-Folded: a", b" b", b"Content-Length: 4"],
    "a folded length": [b"Content-Length:", b" 4"],
    "a space before the colon": [b"Content-Length : 4"],
    "an unknown coding": [b"Transfer-Encoding: xchunked"],
    "chunked is not last": [b"Transfer-Encoding: chunked, identity"],
    "chunked twice": [CHUNKED, CHUNKED],
    "no name": [b": 4"],
    "a bare carriage return": [b"X-A: b\rContent-Length: 4"],
}


@pytest.mark.parametrize("what", TWO_READINGS)
def test_a_request_with_two_readings_is_refused_and_the_connection_closed(door: tuple[str, int], what: str) -> None:
    head = [b"POST /v1/predictions HTTP/1.1", b"Host: localhost", *TWO_READINGS[what], b"", b""]
    with socket.create_connection(door, timeout=5) as wire:
        wire.sendall(b"\r\n".join(head) + b"0\r\n\r\n" + SMUGGLED)
        answer = b""
        while part := wire.recv(1 << 16):  # to the end: a connection that stays open fails by its timeout
            answer += part
    assert (answer.count(b"HTTP/1.1 "), status_of(answer)) == (1, 400)
