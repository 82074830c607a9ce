"""Random encoders, adapters and mixtures of rows: what peft answers one by one, stacked layers answer at once."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from tilth.contract.messages import PredictReply, PredictRequest, Row
from tilth.contract.registry import vertical
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from inference.adapters.folder import AdapterFolder
from inference.adapters.lora import read_lora
from inference.adapters.pool import Pool
from inference.adapters.pooling import mean_pooled
from inference.adapters.service import BaseService
from inference.adapters.stacked import StackedModel, embedding_names
from inference.engine.base_models import load_base
from inference.engine.batches import padded
from inference.engine.heads import linear_names
from inference.engine.precision import device
from tests.inference.adapter_world import make_version

pytestmark = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")
EXACT, HALF = 1e-5, 0.02
"""How far a probability may be off in fp32 and in bf16."""
RANK = 8
STARTS = ("my card", "the parcel", "a refund", "your invoice for last month")
ENDS = ("is lost", "has not come yet, please look where it is", "was stolen", "came twice", "is late", "is wrong")


@dataclass(frozen=True)
class Shape:
    """A small encoder like BERT."""

    layers: int
    heads: int
    head_width: int
    inner: int
    vocabulary: int

    def build(self) -> BertModel:
        torch.manual_seed(11)
        config = BertConfig(
            vocab_size=self.vocabulary, hidden_size=self.heads * self.head_width, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, intermediate_size=self.inner, max_position_embeddings=24,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
        )  # fmt: skip
        model = BertModel(config)
        model.train(False)
        torch.nn.Module.to(model, device())
        return model


@dataclass(frozen=True)
class Wish:
    """A random adapter: its rank, that of some layers by a pattern, its scaling, which layers, how many classes."""

    seed: int
    rank: int
    pattern_rank: int
    alpha: int
    rs: bool
    layers: float
    """Share of the linear layers that it changes."""
    embeddings: float
    classes: int


@dataclass(frozen=True)
class Made:
    """An adapter as peft has it, and as a host reads it."""

    model: Any
    head: nn.Linear
    folder: AdapterFolder

    def probabilities(self, ids: list[int]) -> Tensor:
        """Of one row, alone, by peft."""
        input_ids, mask = (each.to(device()) for each in padded([ids]))
        with torch.no_grad():
            hidden = self.model(input_ids=input_ids, attention_mask=mask).last_hidden_state
            logits: Tensor = self.head(mean_pooled(hidden, mask).cpu())
        return logits.softmax(1)[0]


def made(shape: Shape, wish: Wish, number: int) -> Made:
    base = shape.build()
    generator = torch.Generator().manual_seed(wish.seed)
    linears, embeddings = linear_names(base), embedding_names(base)
    chosen = [name for name in linears if torch.rand(1, generator=generator) < wish.layers]
    chosen += [name for name in embeddings if torch.rand(1, generator=generator) < wish.embeddings]
    facts: dict[str, Any] = {"r": wish.rank, "lora_alpha": wish.alpha, "use_rslora": wish.rs}
    facts |= {"rank_pattern": {"key": wish.pattern_rank, "layer.0.output.dense": wish.pattern_rank}}
    facts |= {"alpha_pattern": {"value": 3 * wish.alpha, "word_embeddings": 2}}
    config = LoraConfig(**facts, target_modules=chosen or linears[:1], bias="none")
    model = get_peft_model(base, config)
    torch.manual_seed(wish.seed)
    for name, part in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(part, std=0.15)
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    lora = read_lora({"peft_type": "LORA", **facts}, tensors)
    head = nn.Linear(shape.heads * shape.head_width, wish.classes)
    nn.init.normal_(head.weight)
    weights = {"weight": head.weight.detach(), "bias": head.bias.detach()}
    return Made(model.eval(), head, AdapterFolder(lora, weights, {}, {}, f"sha256:{number:064x}"))


def answers(shape: Shape, adapters: list[Made], rows: list[tuple[int, list[int]]], dtype: torch.dtype) -> list[Tensor]:
    """Probabilities of all rows from one forward, each by its own adapter."""
    stacked = StackedModel(shape.build(), linear_names(shape.build()), slots=7, rank=RANK, dtype=dtype)
    pool = Pool(stacked.table, stacked.hidden_size)
    slots = [pool.pin(each.folder.digest, lambda each=each: each.folder).number for each in adapters]  # type: ignore[misc]
    at = [slots[which] for which, _ in rows]
    vectors = stacked.vectors(*padded([ids for _, ids in rows]), at)
    assert stacked.forwards == 1
    return [stacked.table.content(slot).logits(vector).softmax(0) for vector, slot in zip(vectors, at, strict=True)]


SHAPES = st.builds(
    Shape, layers=st.integers(1, 2), heads=st.integers(1, 3), head_width=st.sampled_from([4, 8, 12]),
    inner=st.sampled_from([8, 24, 40]), vocabulary=st.integers(12, 60),
)  # fmt: skip
WISHES = st.builds(
    Wish, seed=st.integers(0, 2**31), rank=st.integers(1, RANK), pattern_rank=st.integers(1, RANK),
    alpha=st.integers(1, 16), rs=st.booleans(), layers=st.sampled_from([0.0, 0.3, 1.0]),
    embeddings=st.sampled_from([0.0, 0.0, 0.5, 1.0]), classes=st.integers(2, 6),
)  # fmt: skip
ROWS = st.lists(
    st.tuples(st.integers(0, 99), st.lists(st.integers(1, 11), min_size=1, max_size=20)), min_size=1, max_size=9
)


@pytest.mark.slow
@given(shape=SHAPES, wishes=st.lists(WISHES, min_size=1, max_size=4), rows=ROWS, ordered=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_mixed_batch_of_a_random_encoder_answers_as_peft_does_one_by_one(
    shape: Shape, wishes: list[Wish], rows: list[tuple[int, list[int]]], ordered: bool
) -> None:
    adapters = [made(shape, wish, number) for number, wish in enumerate(wishes)]
    rows = [(which % len(adapters), ids) for which, ids in rows]
    rows = sorted(rows, key=lambda row: row[0]) if ordered else rows
    for answer, (which, ids) in zip(answers(shape, adapters, rows, torch.float32), rows, strict=True):
        torch.testing.assert_close(answer, adapters[which].probabilities(ids), rtol=0, atol=EXACT)


@pytest.mark.slow
def test_in_bf16_probabilities_move_little_and_few_answers_flip(place: Any) -> None:
    base = load_base(vertical("support_chat").base_models[0])
    texts = [f"{start} {end}" for start in STARTS for end in ENDS]
    versions = [make_version(base, place, seed, rank=RANK, spread=0.05, texts=texts) for seed in range(4)]
    service = BaseService(base, place.storage, slots=4, dtype=torch.bfloat16)

    async def ask() -> list[PredictReply]:
        inputs: tuple[Row, ...] = tuple({"text": text} for text in texts)
        wishes = [
            PredictRequest(flow="f", model=version.ref, inputs=inputs, deadline_ms=600_000) for version in versions
        ]
        return await asyncio.gather(*(service.predict(wish) for wish in wishes))

    moved, flips = [], 0
    for reply, version in zip(asyncio.run(ask()), versions, strict=True):
        for prediction, wanted in zip(reply.predictions, version.truth.values(), strict=True):
            found = torch.tensor(list((prediction.probabilities or {}).values()))
            moved.append((found - wanted).abs().max().item())
            flips += int(found.argmax() != wanted.argmax())
    print(f"bf16: probabilities move by at most {max(moved):.4f}; {flips} of {len(moved)} answers flip")
    assert max(moved) <= HALF
    assert flips <= len(moved) // 25
