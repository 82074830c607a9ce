"""The host of whole small models: the digest rule, what is refused, who waits, what is put away."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tilth.contract import registry
from tilth.contract.digest import MANIFEST, folder_digest
from tilth.contract.messages import ModelRef, PredictRequest, ServedBy
from tilth.contract.vertical import FieldKind

from inference.adapters.flows import Flows, Overloaded
from inference.adapters.folder import CARD, FEATURES, FolderRefused
from inference.engine.base_models import Bases
from inference.tabular.columns import InputRefused
from inference.tasks.tabular import LEARNERS, Tabular
from inference.wholes import service as whole_service
from inference.wholes.folder import read_whole
from inference.wholes.service import WholeService
from tests.inference.test_tabular import applicants, face, learned, lesson
from tests.inference.waiting import until

ROW: dict[str, Any] = {"income": 2000, "home": "rent", "since": "2020-01-15", "purpose": "for a roof"}
Stored = Callable[..., ModelRef]


@pytest.fixture
def stored(place: Any, tiny_offer: Any, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """A linear model of a table in storage, as a job leaves it; ``but`` spoils its files."""
    made = face(FieldKind.LABEL, tiny_offer)
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": made})
    task = Tabular(made)

    def store(number: int, but: Callable[[dict[str, bytes]], None] = lambda _: None, **facts: Any) -> ModelRef:
        table, features = lesson(task, applicants(120, seed=number))
        files = dict(learned(LEARNERS["linear"], table).model.files())
        files |= {FEATURES: json.dumps({**features, "candidate": "linear"}).encode(), CARD: b"# A card\n"}
        but(files)
        names = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        digest = folder_digest(names)
        manifest = {"files": names, "digest": digest, "format": 1, "served_by": ServedBy.WHOLE, **facts}
        grant = place.grant(f"{number}/model/", "write")
        for name, content in {**files, MANIFEST: json.dumps(manifest).encode()}.items():
            place.storage.write(grant, name, content)
        return ModelRef(
            digest=digest, folder=place.grant(f"{number}/model/"), vertical="tiny", base_model="tiny",
            served_by=ServedBy.WHOLE,
        )  # fmt: skip

    return store


def asking(ref: ModelRef, flow: str = "f", row: dict[str, Any] = ROW, deadline_ms: int = 30_000) -> PredictRequest:
    return PredictRequest(flow=flow, model=ref, inputs=(row,), deadline_ms=deadline_ms)


@pytest.mark.slow
def test_answers_carry_the_digest_of_the_bytes_that_answered(place: Any, stored: Stored) -> None:
    one, other = stored(1), stored(2)
    service = WholeService(place.storage, Bases(None), capacity=1 << 20)

    async def ask() -> list[Any]:
        return [await service.predict(asking(ref)) for ref in (one, other, one)]

    first, second, third = asyncio.run(ask())
    assert (first.digest, second.digest) == (one.digest, other.digest)
    assert first.predictions != second.predictions
    assert (third.predictions, third.generation) == (first.predictions, first.generation)
    assert {each.output for each in first.predictions} <= {"yes", "no"}
    assert first.usage.rows == 1


def test_another_models_bytes_under_a_digest_are_refused(place: Any, stored: Stored) -> None:
    one, other = stored(1), stored(2)
    service = WholeService(place.storage, Bases(None), capacity=1 << 20)
    swapped = one.model_copy(update={"folder": other.folder})
    with pytest.raises(FolderRefused, match=f"asked for {one.digest}, the bytes in storage have {other.digest}"):
        asyncio.run(service.predict(asking(swapped)))
    assert asyncio.run(WholeService(place.storage, Bases(None), capacity=1).predict(asking(one))).digest == one.digest


def renamed(files: dict[str, bytes]) -> None:
    files["model.pkl"] = files.pop("linear.safetensors")


def cut(files: dict[str, bytes]) -> None:
    files["linear.safetensors"] = files["linear.safetensors"][:20]


def unknown(files: dict[str, bytes]) -> None:
    files[FEATURES] = files[FEATURES].replace(b'"candidate": "linear"', b'"candidate": "oracle"')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("but", "told"),
    [(renamed, r"holds model\.pkl"), (cut, "'linear' cannot be read"), (unknown, "'oracle' cannot be read")],
)
def test_a_folder_that_is_none_is_refused_and_the_host_goes_on(
    place: Any, stored: Stored, but: Callable[[dict[str, bytes]], None], told: str
) -> None:
    bad, good = stored(1, but), stored(2)
    service = WholeService(place.storage, Bases(None), capacity=1 << 20)

    async def ask() -> Any:
        for _ in range(2):
            with pytest.raises(FolderRefused, match=told):
                await service.predict(asking(bad))
        return await service.predict(asking(good))

    assert asyncio.run(ask()).digest == good.digest
    assert len(service.cabinet) == 1


def test_an_adapters_folder_is_refused(place: Any, stored: Stored) -> None:
    ref = stored(1, served_by=ServedBy.STACKED)
    with pytest.raises(FolderRefused, match="served by 'stacked'; a whole model is expected"):
        read_whole({name: place.storage.read(ref.folder, name) for name in place.storage.names(ref.folder)})


def test_a_row_that_cannot_be_read_harms_no_other(place: Any, stored: Stored) -> None:
    ref = stored(1)
    service = WholeService(place.storage, Bases(None), capacity=1 << 20)

    async def ask() -> list[Any]:
        rows = [ROW, {**ROW, "income": "plenty"}, {"features": "[]"}, {}]
        return await asyncio.gather(*(service.predict(asking(ref, row=row)) for row in rows), return_exceptions=True)

    good, plenty, no_object, empty = asyncio.run(ask())
    assert good.usage.rows == empty.usage.rows == 1
    assert isinstance(plenty, InputRefused)
    assert "'income' holds 'plenty'" in str(plenty)
    assert isinstance(no_object, InputRefused)


@pytest.mark.slow
def test_models_are_put_away_when_they_grow_too_large_and_come_back(place: Any, stored: Stored) -> None:
    refs = [stored(number) for number in range(4)]
    size = sum(len(place.storage.read(refs[0].folder, name)) for name in ("linear.safetensors",))
    service = WholeService(place.storage, Bases(None), capacity=2 * size + size // 2)

    async def ask() -> list[str]:
        return [(await service.predict(asking(ref))).digest for ref in [*refs, *refs]]

    assert asyncio.run(ask()) == [ref.digest for ref in [*refs, *refs]]
    assert len(service.cabinet) == 2


def test_many_who_wait_for_a_model_read_it_once(place: Any, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = stored(1)
    service = WholeService(place.storage, Bases(None), capacity=1 << 20)
    reads: list[ModelRef] = []
    fetch = service._fetch

    def counted(asked: ModelRef) -> Any:
        reads.append(asked)
        return fetch(asked)

    monkeypatch.setattr(service, "_fetch", counted)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(service.predict(asking(ref)) for _ in range(20)))

    assert len({answer.generation for answer in asyncio.run(ask())}) == 1
    assert len(reads) == 1


def test_a_model_in_memory_answers_while_others_are_read(
    place: Any, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm, *cold = [stored(number) for number in range(1, 4)]
    service = WholeService(place.storage, Bases(None), capacity=1 << 20)
    reading, fetch = threading.Event(), service._fetch

    def slow(asked: ModelRef) -> Any:
        assert reading.wait(60)
        return fetch(asked)

    async def ask() -> list[Any]:
        await service.predict(asking(warm))
        monkeypatch.setattr(service, "_fetch", slow)
        waiting = [asyncio.create_task(service.predict(asking(ref))) for ref in cold for _ in range(6)]
        await asyncio.sleep(0)
        assert (await service.predict(asking(warm, "g", deadline_ms=5000))).digest == warm.digest
        reading.set()
        return await asyncio.gather(*waiting)

    assert [answer.digest for answer in asyncio.run(ask())] == [ref.digest for ref in cold for _ in range(6)]
    assert service._loads == {}


def test_models_that_nobody_waits_for_any_more_are_not_read(
    place: Any, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = stored(1)
    service = WholeService(place.storage, Bases(None), capacity=1 << 20)
    reading, reads = threading.Event(), list[str]()

    def load(asked: ModelRef, fetch: Any) -> Any:
        assert reading.wait(60)
        reads.append(asked.digest)
        raise FolderRefused("none")

    monkeypatch.setattr(service.cabinet, "load", load)

    async def ask() -> list[Any]:
        refs = [ref.model_copy(update={"digest": f"sha256:{number:064x}"}) for number in range(30)]
        asked = (service.predict(asking(each, deadline_ms=100)) for each in refs)
        found = await asyncio.gather(*asked, return_exceptions=True)
        reading.set()
        await until(lambda: not service._loads)
        return found

    assert {type(each) for each in asyncio.run(ask())} == {Overloaded}
    assert len(reads) == 4, "as many as were begun"


def test_what_waits_past_its_deadline_is_refused(place: Any, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = stored(1)
    service = WholeService(place.storage, Bases(None), capacity=1 << 20)
    held, answer = threading.Event(), whole_service._answer

    def slow(*what: Any) -> Any:
        held.wait(5)
        return answer(*what)

    monkeypatch.setattr("inference.wholes.service._answer", slow)

    async def ask() -> list[Any]:
        first = asyncio.create_task(service.predict(asking(ref)))
        await asyncio.sleep(0.2)
        second = asyncio.create_task(service.predict(asking(ref, deadline_ms=100)))
        await asyncio.sleep(0.3)
        held.set()
        return list(await asyncio.gather(first, second, return_exceptions=True))

    first, second = asyncio.run(ask())
    assert first.digest == ref.digest
    assert isinstance(second, Overloaded)


def test_flows_take_turns_and_refuse_what_does_not_fit() -> None:
    flows: Flows[str] = Flows(5)
    flows.add("loud", ["l1", "l2", "l3"])
    flows.add("quiet", ["q1"])
    with pytest.raises(Overloaded, match="4 are waiting, 1 of them yours; at most 5 may, 2 yours"):
        flows.add("quiet", ["q2", "q3"])
    assert [flows.take() for _ in range(5)] == ["l1", "q1", "l2", "l3", None]
