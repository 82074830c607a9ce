"""Reads and parses a request's body, after its key is known to be good."""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from tilth.core.errors import Invalid
from tilth.core.text import storable
from tilth.datasets.uploading import MOST_PARTS
from tilth.gateway.responses import Receive

LARGEST = 2 * 1024 * 1024
"""Bytes of a body."""


class ClientLeft(Exception):
    """The client went away before its request was whole: nothing is done, nobody is answered."""


def _storable(text: str) -> str:
    if not storable(text):
        raise ValueError("it holds a NUL, which no name does")
    return text


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    EXAMPLE: ClassVar[str]


B = TypeVar("B", bound=Body)


class Ask(Body):
    """``POST /v1/predictions``."""

    EXAMPLE = '{"model": "ft:…", "inputs": [{"text": "…"}]}'

    model: Annotated[str, Field(min_length=1, max_length=240), AfterValidator(_storable)]
    inputs: list[dict[str, JsonValue]] = Field(min_length=1, max_length=1024)


Text = Annotated[str, Field(min_length=1)]


class Embed(Body):
    """``POST /v1/embeddings``; ``user`` is taken and not used, token ids are not taken."""

    EXAMPLE = '{"model": "…", "input": ["…"]}, a text or a list of at most 1,024 texts'

    model: Annotated[str, Field(min_length=1, max_length=240), AfterValidator(_storable)]
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=1024)]
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


class Completion(Body):
    """``POST /v1/uploads/{id}/complete``."""

    EXAMPLE = '{"part_ids": ["part-…"]}'

    part_ids: list[str] = Field(min_length=1, max_length=MOST_PARTS)
    md5: str | None = Field(default=None, pattern="^[0-9a-fA-F]{32}$")


async def read_body(headers: list[tuple[bytes, bytes]], receive: Receive) -> bytes:
    """The whole body; raises Invalid as soon as it is too large, ClientLeft."""
    declared = next((value for name, value in headers if name == b"content-length"), b"0")
    if not declared.isdigit() or int(declared) > LARGEST:
        raise _too_large()
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size, more = size + len(part), message.get("more_body", False)
        if size > LARGEST:
            raise _too_large()
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse(body: bytes, shape: type[B]) -> B:
    """What is asked; raises Invalid naming what is wrong and where."""
    try:
        return shape.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as cause:
        raise Invalid(f"The body is no JSON: {cause}.") from cause
    except ValidationError as cause:
        raise _invalid(cause.errors(include_url=False, include_input=False)[0], shape.EXAMPLE) from cause


def _invalid(fault: Any, example: str) -> Invalid:
    path = ".".join(str(step) for step in fault["loc"])
    message = f"{path}: {fault['msg']}" if path else f"The body must be a JSON object: {fault['msg']}"
    return Invalid(f"{message}. Send {example}.", param=path or None)


def _too_large() -> Invalid:
    return Invalid("The body is over 2 MiB; send less at a time.", code="body_too_large")
