"""How the thin app's routes are described in /v1/openapi.json: from the models that check them."""

from typing import Any

from pydantic import BaseModel

from tilth.contract.messages import Prediction, PredictionUsage
from tilth.core.openapi import REF, answer
from tilth.datasets.models import PURPOSES
from tilth.datasets.services import EXPIRY_S
from tilth.gateway.asks import Ask, Embed
from tilth.gateway.bodies import Completion


class Predictions(BaseModel):
    """The answer of ``POST /v1/predictions``; what a prediction has no word for is left out."""

    object: str
    data: list[Prediction]
    model: str
    digest: str
    usage: PredictionUsage


class Vector(BaseModel):
    """OpenAI's ``embedding``."""

    object: str
    index: int
    embedding: list[float] | str
    """Numbers, or base64 of little-endian 32-bit floats, as asked for."""


class EmbeddingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """The answer of ``POST /v1/embeddings``."""

    object: str
    data: list[Vector]
    model: str
    digest: str
    usage: EmbeddingUsage


class Part(BaseModel):
    """OpenAI's ``upload.part``."""

    id: str
    object: str
    created_at: int
    upload_id: str


def schemas() -> dict[str, Any]:
    """Components of these routes."""
    found: dict[str, Any] = {}
    for model in (Ask, Predictions, Embed, Embeddings, Completion, Part):
        schema = model.model_json_schema(ref_template=f"{REF}{{model}}")
        found |= {**schema.pop("$defs", {}), model.__name__: schema}
    return {name: _as_openapi(schema) for name, schema in found.items()}


def paths() -> dict[str, Any]:
    """Path items of these routes."""
    predicted = {"200": answer("In the order of the inputs", {"$ref": f"{REF}Predictions"})}
    embedded = {"200": answer("In the order of the texts", {"$ref": f"{REF}Embeddings"})}
    stored = {
        "200": answer("The file", {"$ref": f"{REF}FileListOut"}),
        "507": answer("The storage is full", {"$ref": f"{REF}Error"}),
    }
    form = {"multipart/form-data": {"schema": _form()}}
    return {
        "/v1/predictions": {"post": _post("post_v1_predictions", "Predictions of one model.", _json("Ask"), predicted)},
        "/v1/embeddings": {"post": _post("post_v1_embeddings", "Vectors of texts.", _json("Embed"), embedded)},
        "/v1/files": {"post": _post("post_v1_files", "Uploads a file, up to 4 GiB.", form, stored)},
        "/v1/uploads/{upload}/parts": _of_upload(_post("post_v1_uploads_parts", "A part.", _part_form(), _ok("Part"))),
        "/v1/uploads/{upload}/complete": _of_upload(
            _post("post_v1_uploads_complete", "Puts the parts together.", _json("Completion"), _ok("UploadListOut"))
        ),
    }


def _of_upload(operation: dict[str, Any]) -> dict[str, Any]:
    upload = {"name": "upload", "in": "path", "required": True, "schema": {"type": "string"}}
    return {"post": {**operation, "parameters": [upload]}}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"{REF}{name}"}}}


def _ok(name: str) -> dict[str, Any]:
    full = {"507": answer("The storage is full", {"$ref": f"{REF}Error"})}
    return {"200": answer("As OpenAI has it", {"$ref": f"{REF}{name}"}), **full}


def _part_form() -> dict[str, Any]:
    data = {"data": {"type": "string", "format": "binary"}}
    form = {"type": "object", "required": ["data"], "additionalProperties": False, "properties": data}
    return {"multipart/form-data": {"schema": form}}


def _post(name: str, words: str, content: dict[str, Any], responses: dict[str, Any]) -> dict[str, Any]:
    body = {"content": content, "required": True}
    return {"operationId": name, "description": words, "tags": ["v1"], "requestBody": body, "responses": responses}


def _form() -> dict[str, Any]:
    least, most = EXPIRY_S
    return {
        "type": "object",
        "required": ["purpose", "file"],
        "additionalProperties": False,
        "properties": {
            "purpose": {"type": "string", "enum": list(PURPOSES)},
            "file": {"type": "string", "format": "binary"},
            "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
            "expires_after[seconds]": {"type": "integer", "minimum": least, "maximum": most},
        },
    }


def _as_openapi(schema: Any) -> Any:
    """OpenAPI 3.0 says nullable where JSON Schema has a type null."""
    if isinstance(schema, list):
        return [_as_openapi(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    options = schema.get("anyOf", [])
    if {"type": "null"} in options:
        (other,) = [each for each in options if each != {"type": "null"}]
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return {**_as_openapi(other), **rest, "nullable": True}
    return {key: _as_openapi(value) for key, value in schema.items()}
