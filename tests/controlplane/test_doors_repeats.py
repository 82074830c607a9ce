"""Every POST sent twice, eight times at once, and its retry before it: one effect, one reply, counted in SQL."""

import http.client
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from tilth.core.scope import tenant_scope
from tilth.training.models import Job
from tilth.training.states import State

from tests.controlplane.gateway_rig import Answer, deploy
from tests.controlplane.test_cross_tenant import MAKERS
from tests.controlplane.web_rig import api_views, running_web

pytestmark = pytest.mark.slow

AT_ONCE = 8
RETRY = {"x-stainless-retry-count": "1"}
FORM_HEAD = {"Content-Type": "multipart/form-data; boundary=b"}


@dataclass
class Post:
    """A valid request and what it makes: ``count`` is SQL over %(tenant)s and %(owner)s."""

    count: str
    body: Callable[[Any], bytes] = lambda tenant: b"{}"
    repeats_itself: str = ""
    """Why two wishes without a key are one effect; empty: they are two."""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    by_session: bool = False
    other: bytes = b""
    """Another valid body, for the same key used twice."""


def rows(table: str, where: str = "true") -> str:
    return f"SELECT count(*) FROM {table} WHERE tenant_id = %(tenant)s AND {where}"


def body(**said: Any) -> Callable[[Any], bytes]:
    return lambda _: json.dumps(said).encode()


def file_form(tenant: Any, content: bytes = b"text,label\nx,y\n") -> bytes:
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune',
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="rows.csv"\r\n\r\n' + content,
        b"--b--\r\n",
    ]
    return b"\r\n".join(parts)


def job_order(tenant: Any) -> bytes:
    order = {"model": "minilm-l6", "vertical": "support_chat", "training_file": MAKERS["file"](tenant)}
    return json.dumps(order).encode()


def batch_order(tenant: Any) -> bytes:
    order = {"input_file_id": MAKERS["input"](tenant), "endpoint": "/v1/predictions", "completion_window": "24h"}
    return json.dumps(order).encode()


def dataset_wish(tenant: Any) -> bytes:
    return json.dumps({"vertical": "support_chat", "training_file": MAKERS["file"](tenant)}).encode()


def asked_of_job(what: str, why: str = "") -> Post:
    return Post(rows("tenants_auditentry", f"action = 'job.{what}'"), repeats_itself=why)


POSTS: dict[str, Post] = {
    "v1/predictions": Post(
        rows("usage_usageevent"), body(model="ft:test", inputs=[{"text": "x"}]),
        other=b'{"model": "ft:test", "inputs": [{"text": "y"}]}',
    ),
    "v1/embeddings": Post(
        rows("usage_usageevent"), body(model="ft:test", input="x"), other=b'{"model": "ft:test", "input": "y"}'
    ),
    "v1/files": Post(rows("datasets_file"), file_form, headers=FORM_HEAD, other=file_form(None, b"text,label\nz,z\n")),
    "v1/uploads": Post(
        rows("datasets_upload"), body(bytes=10, filename="rows.csv", mime_type="text/csv", purpose="fine-tune"),
        other=b'{"bytes": 11}',
    ),
    "v1/uploads/<str:upload>/cancel": Post(
        rows("datasets_upload", "status = 'cancelled'"), repeats_itself="a cancelled upload stays cancelled"
    ),
    "v1/fine_tuning/jobs": Post(rows("training_job"), job_order, other=b'{"model": "minilm-l6"}'),
    "v1/fine_tuning/jobs/<str:job>/cancel": asked_of_job("cancel", "a cancelled job stays cancelled"),
    "v1/fine_tuning/jobs/<str:job>/pause": asked_of_job("pause", "a paused job stays paused"),
    "v1/fine_tuning/jobs/<str:job>/resume": asked_of_job("resume"),
    "v1/batches": Post(rows("batches_batch"), batch_order, other=b'{"endpoint": "/v1/embeddings"}'),
    "v1/batches/<str:batch>/cancel": Post(
        rows("tenants_auditentry", "action = 'batch.cancel'"), repeats_itself="a cancelled batch stays cancelled"
    ),
    "api/datasets": Post(
        rows("datasets_check", "\"freeze\""), dataset_wish, "the same recipe is the same version", other=b"{}"
    ),
    "api/deployments": Post(
        rows("serving_deployment", "name = 'again'"), body(name="again", model="ft:test"), "the name answers already",
        other=b'{"name": "other", "model": "ft:test"}',
    ),
    "api/members": Post(
        rows("tenants_invitation"), body(email="a@example.org", role="viewer"), other=b'{"email": "b@example.org"}'
    ),
    "api/keys": Post(rows("tenants_apikey"), body(name="again"), other=b'{"name": "other"}'),
    "api/keys/<str:key>/rotate": Post(rows("tenants_apikey")),
    "api/organisations": Post(
        "SELECT count(*) FROM tenants_membership WHERE user_id = %(owner)s", body(name="Another"), by_session=True,
        other=b'{"name": "other"}',
    ),
}  # fmt: skip


def test_every_post_route_of_both_apis_is_sent_twice_here() -> None:
    django = {path for path, view in api_views() if "POST" in view.scopes}
    assert django | {"v1/predictions", "v1/embeddings", "v1/files"} == set(POSTS)


@pytest.fixture(scope="module")
def url(database: Any) -> Iterator[str]:
    with running_web() as found:
        yield found


class Sender:
    """Sends one route's request again and again, and counts what came of it."""

    def __init__(self, url: str, db: psycopg.Connection, tenant: Any, path: str) -> None:
        self._netloc, self._db, self._tenant, self.post = urlsplit(url).netloc, db, tenant, POSTS[path]
        self._address = f"/{self._filled(path)}"
        self._body = self.post.body(tenant)
        self._before = self._count()

    def _filled(self, path: str) -> str:
        kinds = re.findall(r"<str:(\w+)>", path)
        if not kinds:
            return path
        made = MAKERS[kinds[0]](self._tenant)
        if kinds == ["job"]:
            state = State.PAUSED if path.endswith("resume") else State.QUEUED
            with tenant_scope(self._tenant.id):
                Job.objects.filter(id=UUID(made[6:])).update(state=state, **PRICED)
        return re.sub(r"<str:\w+>", quote(made), path)

    def _count(self) -> int:
        who = {"tenant": self._tenant.id, "owner": self._tenant.owner.id}
        found = self._db.execute(self.post.count.encode(), who).fetchone()
        assert found is not None
        return int(found[0])

    def effects(self) -> int:
        """How many there are since the beginning."""
        return self._count() - self._before

    def send(self, said: dict[str, str], content: bytes | None = None) -> Answer:
        connection = http.client.HTTPConnection(self._netloc, timeout=60)
        try:
            sent = content if content is not None else self._body
            connection.request("POST", self._address, sent, {**self._who(), **self.post.headers, **said})
            answer = connection.getresponse()
            return Answer(
                answer.status, json.loads(answer.read()), {name.lower(): value for name, value in answer.getheaders()}
            )
        finally:
            connection.close()

    def _who(self) -> dict[str, str]:
        if not self.post.by_session:
            return {"Authorization": f"Bearer {self._tenant.key}"}
        session, csrf = self._tenant.browser.cookies["sessionid"].value, "c" * 32
        return {"Cookie": f"sessionid={session}; csrftoken={csrf}", "X-CSRFToken": csrf}


PRICED: dict[str, Any] = {}


@pytest.fixture(params=sorted(POSTS))
def sender(request: pytest.FixtureRequest, url: str, tenant: Any, sums_db: psycopg.Connection) -> Sender:
    from tilth.training.estimates import cap_ms
    from tilth.usage.services import price_current

    PRICED.update(price_id=price_current(unit="training.device_ms").id, estimate_ms=1000, max_device_ms=cap_ms(1000))
    deploy(sums_db, tenant)
    return Sender(url, sums_db, tenant, request.param)


def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid4().hex}


def test_a_post_sent_twice_under_one_key_has_one_effect_and_one_reply(sender: Sender) -> None:
    same = key()
    first, second = sender.send(same), sender.send(same)
    assert first.status < 300, first.body
    assert (second.status, second.body) == (first.status, first.body)
    assert sender.effects() == 1


def test_a_post_sent_eight_times_at_once_under_one_key_has_one_effect(sender: Sender) -> None:
    same = key()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: sender.send(same), range(AT_ONCE)))
    done = [answer for answer in answers if answer.status != 409]
    assert {answer.status for answer in done} <= {200, 201, 202}
    assert done
    assert all(answer.body == done[0].body for answer in done)
    assert all("retry-after" in answer.headers for answer in answers if answer.status == 409)
    assert sender.effects() == 1
    assert sender.send(same).body == done[0].body


def test_a_retry_that_arrives_before_its_first_is_the_same_request(sender: Sender) -> None:
    same = key()
    overtaking, first = sender.send({**same, **RETRY}), sender.send(same)
    assert (first.status, first.body) == (overtaking.status, overtaking.body)
    assert sender.effects() == 1


def test_the_sdks_retry_without_a_key_gets_the_firsts_reply(sender: Sender) -> None:
    first, retry, again = sender.send({}), sender.send(RETRY), sender.send({"x-stainless-retry-count": "2"})
    assert first.status < 300, first.body
    assert retry.body == again.body == first.body
    assert sender.effects() == 1


def test_the_sdks_retries_at_once_have_one_effect(sender: Sender) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: sender.send(RETRY), range(AT_ONCE)))
    assert {answer.status for answer in answers} <= {200, 201, 202, 409}
    assert sender.effects() == 1


def test_two_wishes_without_a_key_are_two_effects(sender: Sender) -> None:
    answers = [sender.send({}) for _ in range(2)]
    assert [answer.status < 300 for answer in answers] == [True, True], answers
    assert sender.effects() == (1 if sender.post.repeats_itself else 2)


def test_a_key_used_for_another_request_is_a_422(sender: Sender) -> None:
    if not sender.post.other:
        pytest.skip("a route without a body has one request only")
    same = key()
    assert sender.send(same).status < 300
    assert sender.send(same, sender.post.other).status == 422
    assert sender.effects() == 1


def test_a_key_of_one_organisation_is_nothing_to_another(
    url: str, sums_db: psycopg.Connection, tenant: Any, other_tenant: Any
) -> None:
    same = key()
    made = [Sender(url, sums_db, each, "api/keys").send(same) for each in (tenant, other_tenant)]
    assert [answer.status for answer in made] == [201, 201]
    assert made[0].body["id"] != made[1].body["id"]


def test_a_kept_reply_holds_no_secret_in_the_clear(url: str, sums_db: psycopg.Connection, tenant: Any) -> None:
    made = [Sender(url, sums_db, tenant, path).send(key()).body for path in ("api/keys", "api/members")]
    found = sums_db.execute("SELECT string_agg(body::text, '') FROM core_firstreply WHERE tenant_id = %s", [tenant.id])
    ((kept,),) = found.fetchall()
    assert len(kept) > 500
    assert [secret for secret in (made[0]["secret"], made[1]["token"]) if secret in kept] == []
