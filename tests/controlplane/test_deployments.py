"""Deployments over the management API: a further name for a model, asked for twice, taken, deleted."""

import json
from typing import Any
from uuid import UUID

import pytest
from tilth.core.ids import uuid7
from tilth.core.scope import tenant_scope


@pytest.fixture
def model(tenant: Any) -> str:
    """A finished model's row; its files are nobody's business here."""
    from tilth.registry.models import Model

    name = f"ft:minilm-l6:org::{uuid7().hex[-8:]}"
    with tenant_scope(tenant.id):
        Model.objects.create(
            name=name, job_id=_job(tenant), version_id=_version(tenant), version_sha256="0" * 64,
            vertical="support_chat", base_model="minilm-l6", base_revision="x", path="nowhere/", digest="sha256:0",
            rung="probe", metrics={}, report={}, card="",
        )  # fmt: skip
    return name


def _file(tenant: Any) -> UUID:
    from tilth.core.storage import put_stream
    from tilth.datasets.services import file_create, file_path

    file = uuid7()
    stored = put_stream(file_path(tenant.id, file), [b"text,label\na,b\n"])
    file_create(tenant=tenant.id, by=tenant.principal, file=file, filename="r.csv", purpose="fine-tune", stored=stored)
    return file


def _job(tenant: Any) -> UUID:
    from tilth.training.services import Order, job_create

    order = Order(vertical="support_chat", base_model="minilm-l6", training_file=_file(tenant))
    return job_create(tenant=tenant.id, by=tenant.principal, order=order)


def _version(tenant: Any) -> UUID:
    from tilth.datasets.models import DatasetVersion

    made = DatasetVersion.objects.create(
        training_file_id=_file(tenant), vertical="support_chat", columns={"text": "text"}, options={},
        sha256="0" * 64, bytes=1, path="nowhere", rows=1, splits={"train": 1}, report={}, recipe=uuid7().hex * 2,
    )  # fmt: skip
    return made.id


def post(tenant: Any, **body: str | bool) -> Any:
    return tenant.client.post("/api/deployments", json.dumps(body), content_type="application/json")


def test_a_model_gets_a_further_name_and_asking_again_changes_nothing(tenant: Any, model: str) -> None:
    made = [post(tenant, name="support-desk", model=model) for _ in range(2)]
    assert [reply.status_code for reply in made] == [201, 201]
    assert made[0].json() == made[1].json()
    assert (made[0].json()["name"], made[0].json()["model"]) == ("support-desk", model)
    assert [each["name"] for each in tenant.client.get("/api/deployments").json()["data"]] == ["support-desk"]


def test_names_that_jobs_give_their_models_are_not_taken_before(tenant: Any, model: str) -> None:
    """The name of a job's model is known before the job ends."""
    refused = post(tenant, name="ft:minilm-l6:org::0a1b2c3d", model=model)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "name")
    assert post(tenant, name=model, model=model).status_code == 201


def test_a_deleted_name_is_free_again(tenant: Any, model: str) -> None:
    made = post(tenant, name="support-desk", model=model).json()
    assert tenant.client.delete(f"/api/deployments/{made['id']}").status_code == 204
    assert tenant.client.get("/api/deployments").json()["data"] == []
    assert post(tenant, name="support-desk", model=model).json()["id"] != made["id"]


def test_a_deployment_says_whether_each_row_is_computed_alone(tenant: Any, model: str) -> None:
    made = post(tenant, name="steady", model=model, deterministic=True).json()
    assert made["deterministic"] is True
    assert post(tenant, name="quick", model=model).json()["deterministic"] is False
    refused = post(tenant, name="steady", model=model)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "deterministic")
