"""A tiny base model, grants signed by a key of the tests, and ready-made adapters."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from tilth.contract import sealing
from tilth.contract.digest import MANIFEST, folder_digest
from tilth.contract.messages import Grant, TrainerEvent
from tilth.contract.vertical import BaseModelOffer
from transformers import BertConfig, BertModel, BertTokenizer

from inference.adapters.folder import CARD, FEATURES, AdapterFolder, adapter_files, read_folder
from inference.engine.base_models import Base, load_base
from inference.engine.heads import Head, head_file, linear_names
from inference.storage import Storage

WORDS = [
    "card",
    "lost",
    "stolen",
    "money",
    "refund",
    "back",
    "late",
    "parcel",
    "where",
    "order",
    "pay",
    "bill",
    "invoice",
    "help",
    "me",
    "please",
    "my",
    "the",
    "is",
    "not",
]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as TILTH_MODELS has it: random BERTs of two layers, 32 and 48 wide, saved by the library."""
    models = tmp_path_factory.mktemp("models")
    save_bases(models)
    return models


def save_bases(models: Path) -> None:
    """Random BERTs of two layers below a folder, ``tiny`` 32 and ``wide`` 48 wide, saved by the library."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (models / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizer(str(models / "vocab.txt"))
    for name, width in (("tiny", 32), ("wide", 48)):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary), hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=2 * width, max_position_embeddings=64, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        BertModel(config).save_pretrained(models / name, safe_serialization=True)
        tokenizer.save_pretrained(models / name)


@pytest.fixture(scope="session")
def tiny_offer() -> BaseModelOffer:
    """The tiny base as a vertical would offer it."""
    return BaseModelOffer(id="tiny", title="Tiny", source="local:tiny", licence="apache-2.0", memory_mb=1)


@pytest.fixture
def tiny(tiny_folder: Path, tiny_offer: BaseModelOffer) -> Base:
    """A fresh load of the tiny base."""
    return load_base(tiny_offer, tiny_folder)


@pytest.fixture
def wide(tiny_folder: Path, tiny_offer: BaseModelOffer) -> Base:
    """A fresh load of another base, 48 wide."""
    return load_base(tiny_offer.model_copy(update={"id": "wide", "source": "local:wide"}), tiny_folder)


@dataclass
class Place:
    """A granted folder on disk."""

    root: Path
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    sealed_with: bytes = bytes(32)

    @property
    def storage(self) -> Storage:
        """Storage that believes this key."""
        return Storage(self.key.public_key())

    def grant(self, name: str, method: Any = "read", sha256: str | None = None, life_s: int = 600) -> Grant:
        """A signed grant for a name below the root; a prefix ends with a slash."""
        plain = Grant(
            url=f"file://{self.root}/{name}", method=method, sha256=sha256, key=self.sealed_with.hex(),
            expires_at=int(time.time()) + life_s,
        )  # fmt: skip
        return plain.model_copy(update={"signature": self.key.sign(plain.signed_bytes()).hex()})

    def dataset(self, rows: list[dict[str, str]]) -> Grant:
        """Rows with text, label and split as a frozen version."""
        lines = "\n".join(json.dumps({"line": at, **row}) for at, row in enumerate(rows, 1))
        (self.root / "rows.jsonl").write_text(lines)
        target = self.root / "rows.parquet"
        duckdb.execute(
            f"COPY (SELECT * FROM read_json('{self.root}/rows.jsonl', format='newline_delimited')) TO '{target}'"
        )
        content = target.read_bytes()
        target.write_bytes(sealing.seal(content, self.sealed_with))
        return self.grant("rows.parquet", sha256=hashlib.sha256(content).hexdigest())

    def folder(self, prefix: str) -> dict[str, bytes]:
        """Every object below a prefix, plain."""
        grant = self.grant(prefix)
        return {name: self.storage.read(grant, name) for name in self.storage.names(grant)}

    def events(self, attempt: str) -> list[TrainerEvent]:
        """What an attempt spooled, in order."""
        spooled = self.folder(f"{attempt}/events/").values()
        return [TrainerEvent.model_validate(each) for data in spooled for each in json.loads(data)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A granted folder."""
    return Place(tmp_path)


MakeFiles = Callable[..., tuple[dict[str, bytes], Any, torch.nn.Linear]]
MakeAdapter = Callable[..., tuple[AdapterFolder, Any, torch.nn.Linear]]


@pytest.fixture
def make_files(tiny_folder: Path, tiny_offer: BaseModelOffer) -> MakeFiles:
    """Random adapters: the folder's files, peft's own model, and the head."""

    def make(seed: int, *, rank: int = 4, classes: int = 3, targets: list[str] | None = None) -> Any:
        torch.manual_seed(seed)
        base = load_base(tiny_offer, tiny_folder)
        names = targets or linear_names(base.model)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, bias="none")
        model = get_peft_model(base.model, config)
        for name, part in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(part, std=0.2)
        head = torch.nn.Linear(32, classes)
        files = adapter_files(
            {k: v.contiguous() for k, v in get_peft_model_state_dict(model).items()},
            {"r": rank, "lora_alpha": 2 * rank, "peft_type": "LORA", "target_modules": names},
        ) | head_file(Head(head.weight.detach(), head.bias.detach()))
        features = {"labels": [f"label {n}" for n in range(classes)], "max_length": 32}
        files |= {FEATURES: json.dumps(features).encode(), CARD: b"# A card\n"}
        return sealed(files), model.eval(), head

    return make


@pytest.fixture
def make_adapter(make_files: MakeFiles) -> MakeAdapter:
    """The same with the folder as read back."""

    def make(seed: int, **wishes: Any) -> Any:
        files, model, head = make_files(seed, **wishes)
        return read_folder(files), model, head

    return make


def sealed(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files with their manifest."""
    names = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {"files": names, "digest": folder_digest(names), "format": 1}
    return {**files, MANIFEST: json.dumps(manifest).encode()}


@pytest.fixture
def seal() -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    """Adds the manifest to a folder's files."""
    return sealed
