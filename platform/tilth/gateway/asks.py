"""What customers ask of models, parsed and checked; also in the child that reads batches, so no Django is in it."""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from tilth.core.errors import Invalid
from tilth.core.text import storable

LARGEST = 2 * 1024 * 1024
"""Bytes of a body."""


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


def parse(body: bytes, shape: type[B]) -> B:
    """What is asked; raises Invalid naming what is wrong and where."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as cause:
        raise Invalid(f"The body is no JSON: {cause}.") from cause
    return fitted(found, shape)


def fitted(found: Any, shape: type[B]) -> B:
    """The same of a body's JSON."""
    try:
        return shape.model_validate(found)
    except ValidationError as cause:
        raise _invalid(cause.errors(include_url=False, include_input=False)[0], shape.EXAMPLE) from cause


def _invalid(fault: Any, example: str) -> Invalid:
    path = ".".join(str(step) for step in fault["loc"])
    message = f"{path}: {fault['msg']}" if path else f"The body must be a JSON object: {fault['msg']}"
    return Invalid(f"{message}. Send {example}.", param=path or None)
