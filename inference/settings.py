"""The data plane's settings: the only place here that reads the environment; typed, by topic, with units."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What the surroundings say; every process of the data plane reads the same."""

    host: str
    port: int
    """Where the ingress listens."""
    verify_key: Path
    """Ed25519 public key, PEM: checks tokens and grants."""
    models: Path | None
    """Folder of base models (``local:`` sources)."""
    heartbeat_s: float
    """Seconds between a trainer's signs of life."""
    max_trainers: int
    """Trainers at work at one time, waiting ones not counted."""
    search_workers: int
    """Processes beside a trainer that go the legs of its search, on its device and each with as much memory; 0: the
    trainer itself goes them."""
    trainer_memory_mb: int
    """MiB that one trainer may hold; 0: its share of the machine's memory."""
    gpu_share: float
    """Of one GPU that each host, trainer and worker of a search takes, at most 1; 0: they compute on the CPU."""
    host_replicas: int
    """Processes of each base's host; a model lives in one of them."""
    small_host_replicas: int
    """Processes of the host of whole small models."""
    slots: int
    """Adapters that a host keeps on its device."""
    adapter_memory_mb: int
    """MiB of packed adapters that a host keeps in memory behind its slots."""
    precision: str
    """In which hosts compute: fp32, bf16, or auto, which is bf16 where the machine does that fast."""
    deterministic: bool
    """Every row of every adapter in a forward of its own: the same answer to the bit whoever else asks."""
    small_models_mb: int
    """MiB of files of whole small models that their host keeps in memory."""
    threads: int
    """Threads of torch in each process."""
    ray_address: str

    @property
    def learners(self) -> tuple[int, int]:
        """(Processes that may learn at one time, MiB that the operator gives to each or 0)."""
        return self.max_trainers * (1 + self.search_workers), self.trainer_memory_mb

    @property
    def trainer_share_millis(self) -> int:
        """Thousandths of its device that a trainer holds: of the GPU what it takes, of the CPU an equal part of all."""
        return max(1, int(1000 * (self.gpu_share or 1 / max(1, self.max_trainers))))


def settings(source: Mapping[str, str] = os.environ) -> Settings:
    """Reads and types the environment; raises ValueError naming the variable at fault."""
    models = source.get("TILTH_MODELS", "")
    return Settings(
        host=source.get("TILTH_DATAPLANE_HOST", "127.0.0.1"),
        port=_integer(source, "TILTH_DATAPLANE_PORT", 8100),
        verify_key=Path(source.get("TILTH_VERIFY_KEY", "var/keys/verify.pem")),
        models=Path(models) if models else None,
        heartbeat_s=float(source.get("TILTH_HEARTBEAT_S", "10")),
        max_trainers=_integer(source, "TILTH_MAX_TRAINERS", 1),
        search_workers=_integer(source, "TILTH_SEARCH_WORKERS", 0),
        trainer_memory_mb=_integer(source, "TILTH_TRAINER_MEMORY_MB", 0),
        gpu_share=_share(source, "TILTH_GPU_SHARE"),
        host_replicas=_positive(source, "TILTH_HOST_REPLICAS", 1),
        small_host_replicas=_positive(source, "TILTH_SMALL_HOST_REPLICAS", 1),
        slots=_integer(source, "TILTH_SLOTS", 64),
        adapter_memory_mb=_integer(source, "TILTH_ADAPTER_MEMORY_MB", 2048),
        precision=_choice(source, "TILTH_PRECISION", ("auto", "fp32", "bf16")),
        deterministic=_choice(source, "TILTH_DETERMINISTIC", ("0", "1")) == "1",
        small_models_mb=_integer(source, "TILTH_SMALL_MODELS_MB", 512),
        threads=_integer(source, "TILTH_THREADS", os.cpu_count() or 1),
        ray_address=source.get("RAY_ADDRESS", "auto"),
    )


def _integer(source: Mapping[str, str], name: str, default: int) -> int:
    text = source.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise ValueError(f"{name} must be a whole number, found {text!r}") from None


def _positive(source: Mapping[str, str], name: str, default: int) -> int:
    if (number := _integer(source, name, default)) < 1:
        raise ValueError(f"{name} must be 1 or more, found {number}")
    return number


def _share(source: Mapping[str, str], name: str) -> float:
    """0 unless told."""
    text = source.get(name) or "0"
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, found {text!r}")
    return share


def _choice(source: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """One of the choices, the first unless told."""
    text = source.get(name) or choices[0]
    if text not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, found {text!r}")
    return text
