"""What the fake data plane answers to batches: right by the contract, with knobs to be slow, full, wrong or choosy."""

import struct
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

from tilth.contract.digest import base_digest
from tilth.contract.messages import (
    EmbedReply,
    EmbedRequest,
    Prediction,
    PredictionUsage,
    PredictReply,
    PredictRequest,
)
from tilth.contract.registry import vertical
from tilth.dataplane.port import DataPlaneDown, DataPlaneRefused

TOKENS_PER_ROW = 7


class FakeAnswers:
    """Every row is ``yes``; a vector has three numbers, the first of which is the text's length."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.full = 0
        """So many more calls are answered 503."""
        self.digest: str | None = None
        """Answers with this instead of the digest that was asked for."""
        self.refuses: Callable[[Any], str] = lambda row: ""
        """A sentence for rows that it cannot read: a call with such a row is refused whole."""
        self.meets: Callable[[], object] = lambda: None
        """Called before each answer."""
        self.asked: list[tuple[str, int]] = []
        """(flow, rows) of each call."""
        self.answered: list[Any] = []
        """Every row that was answered, once for each time."""
        self._lock = threading.Lock()

    def predict(self, request: PredictRequest) -> PredictReply:
        """As a host does."""
        usage, tokens = self._counted(request.flow, request.inputs)
        probabilities = {"yes": 0.9, "no": 0.1}
        prediction = Prediction(output="yes", score=0.9, probabilities=probabilities, out_of_scope=False)
        return PredictReply(
            predictions=(prediction,) * usage.rows, digest=self.digest or request.model.digest, generation=1,
            usage=usage, tokens=tokens,
        )  # fmt: skip

    def embed(self, request: EmbedRequest) -> EmbedReply:
        """As a host does."""
        usage, tokens = self._counted(request.flow, request.texts)
        revision = vertical("support_chat").base_model(request.base_model).revision
        asked = request.model.digest if request.model else base_digest(request.base_model, revision)
        vectors = [b64encode(struct.pack("<3f", len(text), 0.5, -1.0)).decode() for text in request.texts]
        return EmbedReply(
            vectors=tuple(vectors), width=3, digest=self.digest or asked, generation=1, usage=usage, tokens=tokens
        )

    def _counted(self, flow: str, rows: Sequence[Any]) -> tuple[PredictionUsage, tuple[int, ...]]:
        self.meets()
        time.sleep(self.delay_s)
        with self._lock:
            self.asked.append((flow, len(rows)))
            if self.full:
                self.full -= 1
                raise DataPlaneDown("the data plane answered 503: too much is waiting")
            if why := next(filter(None, map(self.refuses, rows)), ""):
                raise DataPlaneRefused(why, code="refused")
            self.answered += rows
        tokens = (TOKENS_PER_ROW,) * len(rows)
        return PredictionUsage(rows=len(rows), tokens=sum(tokens)), tokens
