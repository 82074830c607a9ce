"""What a host does not serve exactly it refuses, with reason and cure; nothing of it stays, and the host goes on."""

import asyncio
import json
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load, save
from tilth.contract.digest import MANIFEST
from tilth.contract.errors import GrantRefused, SealBroken
from tilth.contract.messages import LoadRequest, ModelRef, PredictRequest

from inference.adapters.answering import answered
from inference.adapters.folder import ADAPTER, CONFIG, FEATURES, HEAD, FolderRefused, read_folder
from inference.adapters.service import BaseService
from inference.engine.base_models import Base
from tests.inference.conftest import sealed

Files = dict[str, bytes]
QUERY = "base_model.model.encoder.layer.0.attention.self.query"


def configured(**facts: Any) -> Callable[[Files], Files]:
    return lambda files: {**files, CONFIG: json.dumps({**json.loads(files[CONFIG]), **facts}).encode()}


def with_tensors(change: Callable[[dict[str, Any]], None], name: str = ADAPTER) -> Callable[[Files], Files]:
    def changed(files: Files) -> Files:
        tensors = load(files[name])
        change(tensors)
        return {**files, name: save({key: tensor.contiguous() for key, tensor in tensors.items()})}

    return changed


def poisoned(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    def poison(tensors: dict[str, Any]) -> None:
        tensors[name].view(-1)[3] = value

    return poison


def renamed(tensors: dict[str, Any]) -> None:
    for end in ("lora_A.weight", "lora_B.weight"):
        tensors[f"base_model.model.encoder.layer.7.attention.self.query.{end}"] = tensors.pop(f"{QUERY}.{end}")


def widened(tensors: dict[str, Any]) -> None:
    tensors[f"{QUERY}.lora_A.weight"] = torch.ones(4, 48)


def embedding_of_a_linear(tensors: dict[str, Any]) -> None:
    tensors[f"{QUERY}.lora_embedding_A"] = tensors.pop(f"{QUERY}.lora_A.weight")
    tensors[f"{QUERY}.lora_embedding_B"] = tensors.pop(f"{QUERY}.lora_B.weight")


def without_b(tensors: dict[str, Any]) -> None:
    del tensors[f"{QUERY}.lora_B.weight"]


def with_bias(tensors: dict[str, Any]) -> None:
    tensors["base_model.model.encoder.layer.0.attention.self.query.bias"] = torch.ones(32)


def of_integers(tensors: dict[str, Any]) -> None:
    tensors[f"{QUERY}.lora_A.weight"] = torch.ones(4, 32, dtype=torch.int64)


def narrow_head(tensors: dict[str, Any]) -> None:
    tensors["weight"] = tensors["weight"][:, :16]


def two_classes(tensors: dict[str, Any]) -> None:
    tensors |= {name: tensor[:2] for name, tensor in tensors.items()}


REFUSED: dict[str, tuple[Callable[[Files], Files], str]] = {
    "another way than LoRA": (configured(peft_type="IA3"), "only LORA is served"),
    "DoRA": (configured(use_dora=True), "use_dora is True, which is not served; train the adapter without"),
    "whole modules": (configured(modules_to_save=["pooler"]), "modules_to_save"),
    "biases": (configured(bias="all"), "bias is 'all'"),
    "LoRA's biases": (configured(lora_bias=True), "lora_bias"),
    "layers twice": (configured(layer_replication=[[0, 2], [1, 2]]), "layer_replication"),
    "transposed weights": (configured(fan_in_fan_out=True), "fan_in_fan_out"),
    "single tokens": (configured(trainable_token_indices=[1, 2]), "trainable_token_indices"),
    "plain parameters": (configured(target_parameters=["x"]), "target_parameters"),
    "what a later peft invents": (configured(use_magic=True), "use_magic is True"),
    "a changed base": (configured(init_lora_weights="pissa"), "changes the base's own weights; convert it"),
    "a rank pattern that differs": (configured(rank_pattern={"query": 2}), "its rank is 2"),
    "an endless pattern": (configured(alpha_pattern={"(a+)+": 2}), "regular expression; name the layers in full"),
    "a pattern that is a list": (configured(rank_pattern=["query"]), "expected an object"),
    "no rank": (configured(r=None), "no rank and lora_alpha"),
    "rank 0": (configured(r=0), "no rank and lora_alpha"),
    "endless alpha": (configured(lora_alpha=float("inf")), "the scaling inf"),
    "configuration that is no JSON": (lambda files: {**files, CONFIG: b"{"}, "no JSON"),
    "NaN in A": (with_tensors(poisoned(f"{QUERY}.lora_A.weight", float("nan"))), "NaN or infinity"),
    "infinity in B": (with_tensors(poisoned(f"{QUERY}.lora_B.weight", float("inf"))), "NaN or infinity"),
    "too much when scaled": (configured(lora_alpha=1e41), "scaled, the adapter holds NaN or infinity"),
    "NaN in the head": (with_tensors(poisoned("weight", float("nan")), HEAD), "head.*NaN or infinity"),
    "a layer that is not there": (with_tensors(renamed), "does not have: deploy it on the base"),
    "another base's width": (with_tensors(widened), r"\(48, 32\), which this base model does not have"),
    "an embedding where a linear is": (with_tensors(embedding_of_a_linear), "does not have"),
    "half a layer": (with_tensors(without_b), "lora_B.weight is missing"),
    "a bias beside": (with_tensors(with_bias), "query.bias is no part of a LoRA"),
    "integers": (with_tensors(of_integers), "expected a matrix of floats"),
    "another base's head": (with_tensors(narrow_head, HEAD), "the head reads 16 numbers, this base model gives 32"),
    "more labels than outputs": (with_tensors(two_classes, HEAD), "the head has 2 outputs, features.json names 3"),
    "features of nothing": (lambda files: {**files, FEATURES: b"{}"}, "features.json is none of support_chat's"),
    "a pickle beside": (lambda files: {**files, "adapter_model.bin": pickle.dumps(1)}, "adapter_model.bin; only safe"),
    "a pickle under our name": (lambda files: {**files, ADAPTER: pickle.dumps(1)}, "no safetensors file"),
    "half a file": (lambda files: {**files, ADAPTER: files[ADAPTER][:-7]}, "no safetensors file"),
}


@pytest.fixture(scope="module")
def shared(tiny_folder: Any, tiny_offer: Any) -> dict[str, Any]:
    """What is made once for all of them."""
    return {}


@pytest.fixture
def hosted(shared: dict[str, Any], tiny: Base, make_files: Any, place: Any) -> tuple[BaseService, Files]:
    if "files" not in shared:
        shared["files"] = make_files(1)[0]
    return BaseService(tiny, place.storage, slots=2), shared["files"]


def stored(place: Any, name: str, files: Files) -> ModelRef:
    for file, data in files.items():
        place.storage.write(place.grant(f"{name}/", "write"), file, data)
    digest = json.loads(files[MANIFEST])["digest"]
    return ModelRef(digest=digest, folder=place.grant(f"{name}/"), vertical="support_chat", base_model="tiny")


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_its_reason_and_nothing_of_it_stays(case: str, hosted: Any, place: Any) -> None:
    service, good = hosted
    change, reason = REFUSED[case]
    bad = sealed({name: data for name, data in change(dict(good)).items() if name != MANIFEST})
    refs = [stored(place, "bad", bad), stored(place, "good", good)]
    ask = partial(PredictRequest, flow="f", inputs=({"text": "card lost"},))

    async def story() -> Any:
        for wish in (service.predict(ask(model=refs[0])), service.load(LoadRequest(model=refs[0]))):
            with pytest.raises(FolderRefused, match=reason) as refused:
                await wish
            assert (answered(refused.value).status, answered(refused.value).body.code) == (422, "model_refused")
        assert (len(service.pool), service.pool.idle) == (0, 2)
        assert (service.pool.recall(refs[0].digest), service.model.table.contents) == (None, {})
        return await service.predict(ask(model=refs[1]))

    assert asyncio.run(story()).digest == refs[1].digest


def test_a_folder_that_is_not_there_is_missing_not_a_fault_of_the_host(tiny: Base, place: Any) -> None:
    service = BaseService(tiny, place.storage, slots=2)
    nowhere = ModelRef(digest="sha256:1", folder=place.grant("no/"), vertical="support_chat", base_model="tiny")
    with pytest.raises(FolderRefused, match="lacks"):
        asyncio.run(service.load(LoadRequest(model=nowhere)))
    assert (len(service.pool), service.pool.idle) == (0, 2)


def test_every_setting_of_pefts_that_is_off_by_default_is_let_through(make_files: Any) -> None:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["query"])
    whole = {key: sorted(v) if isinstance(v, set) else v for key, v in config.to_dict().items()}  # type: ignore[no-untyped-call]
    files = configured(**whole)(dict(make_files(1)[0]))
    del files[MANIFEST]
    assert read_folder(sealed(files)).rank == 4


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (GrantRefused("the grant of file:///var/secret/ has expired"), 403, "grant_refused"),
        (SealBroken("file:///var/secret/a is not what was sealed"), 422, "seal_broken"),
        (FileNotFoundError("/var/secret/a"), 422, "model_missing"),
    ],
)
def test_what_the_control_plane_or_the_storage_did_is_told_without_a_place(
    error: Exception, status: int, code: str
) -> None:
    told = answered(error)
    assert (told.status, told.body.code) == (status, code)
    assert "secret" not in told.body.message
