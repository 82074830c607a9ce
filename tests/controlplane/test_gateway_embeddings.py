"""``/v1/embeddings`` with the unmodified SDK, through the real gateway: right vectors, right bill, right refusals."""

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from django.conf import settings
from tilth.dataplane.fake_predictions import TOKENS_PER_ROW, FakePredictions, running
from tilth.tenants import services as tenants
from tilth.tenants.scopes import Scope
from tilth.usage.fold import fold_once
from tilth.usage.models import Price

from tests.controlplane.gateway_rig import Served, Stack, deploy, events, eventually, held, send


@pytest.fixture(scope="module")
def stack(database: Any) -> Iterator[Stack]:
    for unit in ("prediction.tokens", "embedding.tokens"):
        Price.objects.create(unit=unit, title="Tokens read", micro_usd=20, per_quantity=1000)
    public = load_pem_public_key((Path(settings.ENV.signing_key).parent / "verify.pem").read_bytes())
    plane = FakePredictions(public)  # type: ignore[arg-type]
    with running(plane) as plane_url, running(Served(settings.ENV.database_url, plane_url)) as url:
        yield Stack(url, plane, database)


@pytest.fixture
def client(stack: Stack, tenant: Any, sums_db: psycopg.Connection) -> Iterator[openai.OpenAI]:
    deploy(sums_db, tenant)
    with openai.OpenAI(api_key=tenant.key, base_url=f"{stack.url}/v1", max_retries=0) as made:
        yield made
    stack.plane.digest = None


def billed(db: psycopg.Connection, tenant: Any) -> list[Any]:
    return db.execute(
        "SELECT unit, quantity, subject FROM usage_usageevent e JOIN usage_price p ON p.id = e.price_id"
        " WHERE e.tenant_id = %s", [tenant.id]
    ).fetchall()  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("model", ["minilm-l6", "ft:test"])
def test_texts_become_vectors_in_their_order_and_are_billed_once(
    client: openai.OpenAI, tenant: Any, sums_db: psycopg.Connection, model: str
) -> None:
    texts = ["abc", "abcde"]
    both = (
        client.embeddings.create(model=model, input=texts),
        client.embeddings.create(model=model, input=texts, encoding_format="float"),
    )
    for found in both:
        assert [(each.index, each.embedding) for each in found.data] == [(0, [3.0, 0.5, -1.0]), (1, [5.0, 0.5, -1.0])]
        assert (found.model, found.usage.prompt_tokens, found.usage.total_tokens) == (model, 14, 14)
    assert billed(sums_db, tenant) == [("embedding.tokens", 2 * TOKENS_PER_ROW, model)] * 2
    assert eventually(lambda: fold_once() >= 0 and held(sums_db, tenant) == [])


def test_one_text_alone_is_one_vector_and_base64_is_passed_on(client: openai.OpenAI, stack: Stack, tenant: Any) -> None:
    body = b'{"model": "minilm-l6", "input": "abc", "encoding_format": "base64", "user": "me"}'
    answer = send(stack.url, "POST", "/v1/embeddings", tenant.key, body)
    (only,) = answer.body["data"]
    assert struct.unpack("<3f", base64.b64decode(only["embedding"])) == (3.0, 0.5, -1.0)


def test_another_tenants_model_is_as_unknown_as_nobodys(client: openai.OpenAI, stack: Stack, other_tenant: Any) -> None:
    errors = []
    for key, model in ((other_tenant.key, "ft:test"), (client.api_key, "ft:nobodys")):
        with (
            openai.OpenAI(api_key=key, base_url=f"{stack.url}/v1", max_retries=0) as asking,
            pytest.raises(openai.NotFoundError) as refused,
        ):
            asking.embeddings.create(model=model, input="abc")
        errors.append(str(refused.value).replace(model, "…"))
    assert errors[0] == errors[1]


def test_vectors_of_another_model_are_neither_shown_nor_billed(
    client: openai.OpenAI, stack: Stack, tenant: Any, sums_db: psycopg.Connection
) -> None:
    stack.plane.digest = "sha256:" + "0" * 64
    with pytest.raises(openai.InternalServerError) as refused:
        client.embeddings.create(model="minilm-l6", input="abc")
    assert refused.value.code == "digest_mismatch"
    assert events(sums_db, tenant) == []
    assert eventually(lambda: fold_once() >= 0 and held(sums_db, tenant) == [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", [[], "", [""], [[1, 2]], [1, 2], ["x"] * 1025, None], ids=lambda wrong: repr(wrong)[:20]
)  # fmt: skip
def test_what_is_no_text_is_refused_and_named(client: openai.OpenAI, wrong: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"input.*a text or a list of at most 1,024 texts"):
        client.embeddings.create(model="minilm-l6", input=wrong)


def test_a_key_without_the_right_is_refused(stack: Stack, tenant: Any) -> None:
    rights = frozenset({Scope.FILES_READ})
    key = tenants.key_create(tenant=tenant.id, by=tenant.principal, name="reads", scopes=rights)[1].secret
    assert send(stack.url, "POST", "/v1/embeddings", key, b'{"model": "minilm-l6", "input": "x"}').status == 403
