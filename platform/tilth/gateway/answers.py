"""The bodies of answers, the same whether a customer waits for one or finds it in a batch's file."""

import base64
import struct
from collections.abc import Iterable
from typing import Any

from tilth.contract.messages import Prediction, PredictionUsage


def predicted(model: str, digest: str, predictions: Iterable[Prediction], usage: PredictionUsage) -> dict[str, Any]:
    """Of ``/v1/predictions``: in the order of the inputs; what a prediction has no word for is left out."""
    data = [prediction.model_dump(exclude_none=True) for prediction in predictions]
    return _listed(model, digest, data, {"rows": usage.rows, "tokens": usage.tokens})


def embedded(model: str, digest: str, vectors: Iterable[str], usage: PredictionUsage, *, plain: bool) -> dict[str, Any]:
    """Of ``/v1/embeddings``, in OpenAI's words: vectors in the texts' order, as base64 or, plain, as numbers."""
    shown: Iterable[Any] = map(_numbers, vectors) if plain else vectors
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(shown)]
    return _listed(model, digest, data, {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens})


def _listed(model: str, digest: str, data: list[Any], usage: dict[str, int]) -> dict[str, Any]:
    return {"object": "list", "data": data, "model": model, "digest": digest, "usage": usage}


def _numbers(packed: str) -> tuple[float, ...]:
    raw = base64.b64decode(packed)
    return struct.unpack(f"<{len(raw) // 4}f", raw)
