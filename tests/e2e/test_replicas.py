"""Two replicas of each host: a model lives in one of them; when that is killed the other answers, until it is back."""

import io
import json
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from inference.exchange import CALLS
from inference.replicas import ranked
from tests.product import Product, eventually, running_product

pytestmark = [pytest.mark.stack, pytest.mark.slow]

REPLICA = re.compile(r"ray::ServeReplica:(tilth-host-[\w-]+):")
MOST_MODELS = 12
"""So many live in one of two replicas by a chance of 1 in 2,000."""
BACK_S = 120.0
ALONE = CALLS + 2
"""More calls than a line to a killed replica had on their way: Serve gives those, late, to the one in its place."""


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    with running_product(settings={"TILTH_HOST_REPLICAS": "2"}) as made:
        yield made


@pytest.fixture(scope="module")
def client(product: Product) -> Iterator[OpenAI]:
    """Tries nothing twice: every refusal would be seen."""
    with OpenAI(base_url=f"{product.url}/v1", api_key=product.account()["key"], max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def homes(product: Product, client: OpenAI) -> dict[str, "Model"]:
    """A model for each replica, trained until there is one."""
    names, found = sorted(replicas(product)), dict[str, Model]()
    for number in range(MOST_MODELS):
        if len(found) == len(names):
            break
        model = trained(client, number)
        found.setdefault(ranked(model.digest, names)[0], model)
    assert sorted(found) == names
    return found


class Model:
    """A name, and what must answer by it."""

    def __init__(self, client: OpenAI, name: str) -> None:
        self.name = name
        self.digest: str = client.models.retrieve(name).model_dump()["digest"]

    def ask(self, client: OpenAI) -> None:
        """One prediction, by its own digest; raises at every refusal."""
        body = {"model": self.name, "inputs": [{"text": "where is my parcel"}]}
        reply: Any = client.post("/predictions", cast_to=object, body=body)
        assert reply["digest"] == self.digest


def trained(client: OpenAI, number: int) -> Model:
    """Seconds of learning; each number gives another model."""
    lines = [
        {"text": f"{words} {number}-{n}", "intent": words} for n in range(20) for words in ("lost", "late", "paid")
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("rows.jsonl", io.BytesIO(content)), purpose="fine-tune")
    extra = {"vertical": "support_chat", "options": {"highest_rung": "probe"}}
    job = client.fine_tuning.jobs.create(model="minilm-l6", training_file=file.id, extra_body=extra).id
    retrieve = client.fine_tuning.jobs.retrieve
    eventually(lambda: retrieve(job).status in ("succeeded", "failed"), 240)
    name = retrieve(job).fine_tuned_model
    assert name is not None, retrieve(job).error
    return Model(client, name)


def replicas(product: Product) -> dict[str, int]:
    """Name → process, of the hosts of bases that live now."""
    found = {REPLICA.match(line): pid for pid, line in product.processes().items()}
    return {match[1]: pid for match, pid in found.items() if match}


def answered(product: Product, name: str) -> int:
    """Calls that a replica, whatever its process, has answered; by Serve's own log of each."""
    logs = (product.var / "ray" / "session_latest" / "logs" / "serve").glob(f"replica_{name}_*.log")
    return sum(log.read_text().count(" CALL exchange OK ") for log in logs)


def who_answers(product: Product, client: OpenAI, homes: dict[str, Model], model: Model) -> str:
    """The first replica in whose log ALONE more calls stand while the model is asked: one prediction is one call."""
    before = {name: answered(product, name) for name in homes}

    def alone() -> str:
        model.ask(client)
        return next((name for name in homes if answered(product, name) >= before[name] + ALONE), "")

    return eventually(alone)


def test_each_model_is_answered_by_its_own_replica(product: Product, client: OpenAI, homes: dict[str, Model]) -> None:
    assert {name: who_answers(product, client, homes, model) for name, model in homes.items()} == {n: n for n in homes}


def test_a_killed_replicas_models_are_answered_by_the_other_until_it_is_back(
    product: Product, client: OpenAI, homes: dict[str, Model]
) -> None:
    """Whoever asks in between is never refused; a digest that is not the model's own would be."""
    lost, kept = sorted(homes)
    os.kill(replicas(product)[lost], signal.SIGKILL)
    assert {who_answers(product, client, homes, model) for model in homes.values()} == {kept}
    eventually(lambda: who_answers(product, client, homes, homes[lost]) == lost, BACK_S)
    assert who_answers(product, client, homes, homes[kept]) == kept
