"""Reads a customer's request for a batch, in OpenAI's words and ours, into an Order."""

from typing import Any

from rest_framework import serializers

from tilth.batches.services import Order
from tilth.batches.states import Endpoint
from tilth.core.errors import Invalid
from tilth.core.ids import parse
from tilth.core.serializers import MetadataField, Strict

ENDPOINTS = [each.value for each in Endpoint]


class BatchIn(Strict):
    """``batches.create``; ``model`` and ``columns`` are our own, sent through the SDK's ``extra_body``."""

    class Life(Strict):
        anchor = serializers.ChoiceField(["created_at"])
        seconds = serializers.IntegerField()

    input_file_id = serializers.CharField(max_length=64)
    endpoint = serializers.ChoiceField(
        ENDPOINTS, error_messages={"invalid_choice": f"A batch asks {' or '.join(ENDPOINTS)}; found {{input!r}}."}
    )
    completion_window = serializers.ChoiceField(
        ["24h"], error_messages={"invalid_choice": "The only completion window is '24h'; found {input!r}."}
    )
    metadata = MetadataField()
    output_expires_after = Life(required=False, allow_null=True)
    model = serializers.CharField(
        max_length=240, required=False, allow_null=True,
        help_text="The file holds plain rows for this model (CSV, JSON Lines, Parquet), not requests.",
    )  # fmt: skip
    columns = serializers.DictField(
        child=serializers.CharField(max_length=200), required=False, allow_null=True,
        help_text="Of plain rows: role → column, where it is not as the model learned it.",
    )  # fmt: skip


def order_of(body: dict[str, Any]) -> Order:
    """The order in a checked body; raises NotFound for what is no id of a file, Invalid where parts contradict."""
    endpoint, model = Endpoint(body["endpoint"]), body.get("model") or ""
    if model and endpoint != Endpoint.PREDICTIONS:
        message = f"Plain rows are for {Endpoint.PREDICTIONS.value}; leave the model out of a batch of requests."
        raise Invalid(message, param="model")
    if body.get("columns") and not model:
        raise Invalid("columns says how plain rows are read; name the model that they are for.", param="columns")
    life = body.get("output_expires_after")
    return Order(
        input_file=parse("file", body["input_file_id"]), endpoint=endpoint, model=model, columns=body.get("columns"),
        metadata=body.get("metadata") or {}, output_expires_after_s=life["seconds"] if life else None,
    )  # fmt: skip
