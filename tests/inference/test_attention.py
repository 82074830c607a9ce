"""Attention in fp32 while something learns gives what torch's own gives, also where rows are padded."""

from typing import Any

import pytest
import torch
from transformers import AutoModel

from inference.engine.attention import NAME, learns_fast
from inference.engine.base_models import Base
from inference.engine.batches import padded
from inference.engine.precision import device

pytestmark = pytest.mark.skipif(device().type != "cpu", reason="a kernel of the CPU's")

IDS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]


def hidden(model: Any, *, learns: bool) -> torch.Tensor:
    ids, mask = padded(IDS, 8)
    for part in model.parameters():
        part.requires_grad_(learns)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    return found * mask[:, :, None]  # type: ignore[no-any-return]


def test_rows_that_are_padded_give_the_same(tiny: Base) -> None:
    assert tiny.model.config._attn_implementation == NAME  # type: ignore[union-attr]
    plain: Any = AutoModel.from_config(  # type: ignore[no-untyped-call]
        tiny.model.config, attn_implementation="sdpa"
    ).eval()
    plain.load_state_dict(tiny.model.state_dict())
    wanted = hidden(plain, learns=True)
    torch.testing.assert_close(hidden(tiny.model, learns=True), wanted, atol=0.03, rtol=0.02)
    torch.testing.assert_close(hidden(tiny.model, learns=False), wanted, atol=0.03, rtol=0.02)
    assert torch.cat(apart(tiny)).max().item() < 0.03


def apart(base: Base) -> list[torch.Tensor]:
    """How far each row is from what it is by itself."""
    together, found = hidden(base.model, learns=True), []
    for row, ids in enumerate(IDS):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            one = base.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        found.append((one.last_hidden_state[0].float() - together[row, : len(ids)]).abs().flatten())
    return found


def test_gradients_are_those_of_fp32(tiny: Base) -> None:
    ids, mask = padded(IDS, 8)
    way = torch.randn(3, 8, 32, generator=torch.Generator().manual_seed(0))

    def gradient(*, half: bool) -> torch.Tensor:
        weight = tiny.model.get_parameter("encoder.layer.0.attention.self.query.weight").requires_grad_()
        weight.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found = tiny.model(input_ids=ids, attention_mask=mask).last_hidden_state
        (found.float() * mask[:, :, None] * way).sum().backward()
        assert weight.grad is not None
        return weight.grad.clone()

    tiny.model.requires_grad_(requires_grad=False)
    exact = gradient(half=False)
    assert (gradient(half=True) - exact).norm().item() < 0.1 * exact.norm().item()


def test_a_model_that_was_loaded_with_another_keeps_it(tiny: Base) -> None:
    model: Any = AutoModel.from_config(tiny.model.config, attn_implementation="eager")  # type: ignore[no-untyped-call]
    assert learns_fast(model).config._attn_implementation == "eager"
