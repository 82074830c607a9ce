"""Vectors of texts: of the base alone or of a fine-tuned encoder, in one batch with everybody else's rows."""

import asyncio
import base64
import json
from typing import Any

import pytest
import torch
from tilth.contract.digest import MANIFEST, base_digest
from tilth.contract.messages import EmbedReply, EmbedRequest, ModelRef

from inference.adapters.pooling import mean_pooled
from inference.adapters.service import BaseService, TooLong
from inference.engine.base_models import Base
from inference.engine.batches import padded
from inference.engine.precision import device

TEXTS = ("my card is lost", "refund", "where is my parcel please help me")


@pytest.fixture
def deployed(place: Any, make_files: Any) -> Any:
    """A fine-tuned model in storage: its reference, and peft's own model."""

    def make(seed: int) -> tuple[ModelRef, Any]:
        files, model, _ = make_files(seed)
        grant = place.grant(f"m{seed}/", "write")
        for name, data in files.items():
            place.storage.write(grant, name, data)
        digest = json.loads(files[MANIFEST])["digest"]
        read = place.grant(f"m{seed}/")
        return ModelRef(digest=digest, folder=read, vertical="support_chat", base_model="tiny"), model

    return make


def vectors(reply: EmbedReply) -> torch.Tensor:
    raw = [bytearray(base64.b64decode(vector)) for vector in reply.vectors]
    return torch.stack([torch.frombuffer(each, dtype=torch.float32) for each in raw])


def alone(base: Base, model: Any, text: str) -> torch.Tensor:
    """One text, by the library's own forward."""
    input_ids, mask = (each.to(device()) for each in padded(base.encode([text], 64)))
    with torch.no_grad():
        return mean_pooled(model(input_ids=input_ids, attention_mask=mask).last_hidden_state, mask)[0].cpu()


def test_base_and_adapters_answer_together_as_each_would_alone(
    tiny: Base, tiny_folder: Any, tiny_offer: Any, place: Any, deployed: Any
) -> None:
    from inference.engine.base_models import load_base

    plain = load_base(tiny_offer, tiny_folder)
    service = BaseService(tiny, place.storage, slots=4)
    refs = [deployed(seed) for seed in (1, 2)]

    async def ask() -> list[EmbedReply]:
        wishes = [None, *(ref for ref, _ in refs)]
        asked = [EmbedRequest(flow="f", base_model="tiny", model=wish, texts=TEXTS) for wish in wishes]
        return await asyncio.gather(*(service.embed(each) for each in asked))

    replies = asyncio.run(ask())
    assert [reply.digest for reply in replies] == [base_digest("tiny", tiny.revision), *(r.digest for r, _ in refs)]
    for reply, model in zip(replies, [plain.model, *(model for _, model in refs)], strict=True):
        assert (reply.width, reply.usage.rows) == (32, 3)
        assert reply.tokens == tuple(map(len, tiny.encode(list(TEXTS), 64)))
        assert reply.usage.tokens == sum(reply.tokens)
        for vector, text in zip(vectors(reply), TEXTS, strict=True):
            torch.testing.assert_close(vector, alone(plain, model, text), rtol=1e-5, atol=1e-5)


def test_a_text_that_is_too_long_is_refused_and_not_cut(tiny: Base, place: Any) -> None:
    service = BaseService(tiny, place.storage, slots=2)
    long = EmbedRequest(flow="f", base_model="tiny", texts=("card", "card " * 63))
    with pytest.raises(TooLong, match="input 1 has more than 64 tokens"):
        asyncio.run(service.embed(long))
    fits = EmbedRequest(flow="f", base_model="tiny", texts=("card " * 62,))
    assert asyncio.run(service.embed(fits)).usage.tokens == 64
