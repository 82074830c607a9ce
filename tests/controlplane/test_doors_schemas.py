"""Both APIs as they describe themselves, tested by schemathesis against a real web process and a real PostgreSQL."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.controlplane.gateway_rig import deploy
from tests.controlplane.web_rig import api_views, running_web

pytestmark = pytest.mark.slow

EXAMPLES = 12
"""Of each operation in the fuzzing phase; the coverage phase makes its own number."""
LEFT_OUT = {
    # Our names are looked up: a body that fits the schema may name a file, a model or a vertical that is not there.
    "positive_data_acceptance": "what fits the schema may still name nothing",
}
DOCUMENTS = {"/v1/": "/v1/openapi.json", "/api/": "/api/schema"}


@pytest.fixture(scope="module")
def url(database: Any) -> Iterator[str]:
    with running_web() as found:
        yield found


@pytest.mark.parametrize("document", DOCUMENTS.values())
def test_schemathesis_finds_nothing(
    url: str, tenant: Any, sums_db: psycopg.Connection, document: str, tmp_path: Path
) -> None:
    deploy(sums_db, tenant)
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}{document}", "--url", url,
        "--header", f"Authorization: Bearer {tenant.key}", "--phases", "coverage,fuzzing", "--mode", "all",
        "--max-examples", str(EXAMPLES), "--seed", "1", "--generation-deterministic",
        "--exclude-checks", ",".join(LEFT_OUT), "--continue-on-failure", "--warnings", "off", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]


def test_every_route_of_both_apis_is_described(tenant: Any) -> None:
    described = {
        f"{method.upper()} {path}"
        for address in DOCUMENTS.values()
        for path, item in tenant.client.get(address).json()["paths"].items()
        for method in item
    }
    known = {"POST /v1/predictions", "POST /v1/embeddings", "POST /v1/files"}
    known |= {f"POST /v1/uploads/{{upload}}/{what}" for what in ("parts", "complete")}
    for path, view in api_views():
        known |= {f"{method} /{path.replace('<str:', '{').replace('>', '}')}" for method in view.scopes}
    assert described == known


@pytest.mark.parametrize(("prefix", "address"), DOCUMENTS.items())
def test_a_document_names_the_key_and_the_errors_of_every_operation(tenant: Any, prefix: str, address: str) -> None:
    found = tenant.client.get(address).json()
    assert all(path.startswith(prefix) for path in found["paths"])
    assert found["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for item in found["paths"].values():
        for operation in item.values():
            assert operation["security"] == [{"key": []}]
            assert {"400", "401", "403", "503"} <= set(operation["responses"])
