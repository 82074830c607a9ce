"""Reading texts: one tokeniser for many threads, no more of a text than can matter, each flow in its turn."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from tilth.contract.messages import EmbedRequest

from inference.adapters.flows import Overloaded
from inference.adapters.service import BaseService, TooLong
from inference.engine.base_models import CHARACTERS, Base


class Tokenizer:
    """Ids of single characters; like the real one it sets its length first and cuts by it afterwards."""

    model_max_length = 64

    def __init__(self) -> None:
        self.most = 0
        self.read: list[str] = []
        self.leave = threading.Event()
        self.leave.set()

    def __call__(self, texts: Sequence[str], pairs: object, *, truncation: bool, max_length: int) -> dict[str, Any]:
        self.most = max_length
        assert self.leave.wait(60)
        time.sleep(0.0005)
        self.read += texts
        return {"input_ids": [[5] * min(len(text), self.most) for text in texts]}


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture
def base(tiny: Base, tokenizer: Tokenizer) -> Base:
    return replace(tiny, tokenizer=tokenizer)


def test_each_caller_gets_the_length_that_it_asked_for(base: Base) -> None:
    lengths = [8 + n % 3 for n in range(120)]
    with ThreadPoolExecutor(6) as threads:
        found = threads.map(lambda most: len(base.named(f"as {most}").encode(["a" * 100], most)[0]), lengths)
        assert list(found) == lengths


def test_no_more_of_a_text_is_read_than_can_matter(base: Base, tokenizer: Tokenizer) -> None:
    assert base.encode(["a" * 10_000, "bc"], 4) == [[5] * 4, [5] * 2]
    assert base.encode(["a"], 4, ["b" * 10_000]) == [[5]]
    assert max(map(len, tokenizer.read)) == 4 * CHARACTERS


@pytest.mark.parametrize("texts", [("one " * 300,), ("one", "one " * 300), ("one" + " " * 100_000 + "two",)])
def test_a_text_that_would_be_cut_is_refused_wherever_it_stands(tiny: Base, place: Any, texts: tuple[str, ...]) -> None:
    service = BaseService(tiny, place.storage, slots=2)
    with pytest.raises(TooLong, match=f"input {len(texts) - 1} has more than {tiny.longest} tokens"):
        asyncio.run(service.embed(EmbedRequest(flow="f", base_model="tiny", texts=texts)))


def test_one_request_of_each_flow_is_read_in_turn(base: Base, tokenizer: Tokenizer, place: Any) -> None:
    service = BaseService(base, place.storage, slots=2)
    tokenizer.leave.clear()

    async def story() -> None:
        asked = [EmbedRequest(flow="loud", base_model="tiny", texts=(f"loud {n}",)) for n in range(20)]
        flood = [asyncio.create_task(service.embed(each)) for each in asked]
        await asyncio.sleep(0)
        quiet = asyncio.create_task(service.embed(EmbedRequest(flow="quiet", base_model="tiny", texts=("quiet",))))
        late = EmbedRequest(flow="late", base_model="tiny", texts=("late",), deadline_ms=20)
        with pytest.raises(Overloaded, match="could not be read before its deadline"):
            await service.embed(late)
        tokenizer.leave.set()
        await asyncio.gather(*flood, quiet)

    asyncio.run(story())
    assert tokenizer.read.index("quiet") <= 2
    assert "late" not in tokenizer.read
