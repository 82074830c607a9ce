"""The messages that cross between the planes: frozen, strict, JSON."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tilth.contract.learning import Loss, Method, Optimiser, Rung, Targets

Row = dict[str, JsonValue]


class Message(BaseModel):
    """A frozen message; an unknown key is an error on either side."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class Grant(Message):
    """Leave to read or write one object or one prefix (its url ends with ``/``), signed by the control plane."""

    url: str
    method: Literal["read", "write"]
    sha256: str | None = None
    """Hex digest that the object's bytes must have; None for prefixes and writes."""
    key: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    """What the objects are sealed with (hex): of this file, dataset or job alone. Never shown, never logged."""
    expires_at: int
    """Unix time, seconds."""
    signature: str = ""
    """Ed25519 over ``signed_bytes``, hex."""

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        return self.model_dump_json(exclude={"signature"}).encode()


REVOKED = "REVOKED"
"""An object of this name directly below a prefix ends every grant to write there."""


class ServedBy(StrEnum):
    """What kind of host answers by a model."""

    STACKED = "stacked"
    """An adapter in a slot beside many others on one base."""
    WHOLE = "whole"
    """A small model of its own."""


class TrainingOptions(Message):
    """What a customer may say about learning; None means the engine chooses."""

    seed: int = 0
    epochs: int | None = Field(default=None, ge=1, le=100)
    batch_size: int | None = Field(default=None, ge=1, le=1024)
    learning_rate_multiplier: float | None = Field(default=None, gt=0, le=100)
    rank: int | None = Field(default=None, ge=1, le=16)
    highest_rung: Rung = Rung.LORA
    method: Method | None = None
    """The one to try beside the probe; None climbs the ladder."""
    optimiser: Optimiser = Optimiser.ADAMW
    loss: Loss | None = None
    """None: the first that suits the target."""
    class_weights: bool = False
    """Whether every label weighs the same in the loss, however rare it is."""
    label_smoothing: float | None = Field(default=None, ge=0, le=0.5)
    consistency: float | None = Field(default=None, ge=0, le=10)
    """How much two views of a row count that answer differently; 0 sees each row once, which is quicker."""
    targets: Targets = Targets.ALL
    layers: int = Field(default=2, ge=1, le=100)
    """That learn where only the last ones do."""
    trials: int | None = Field(default=None, ge=2, le=64)
    """Configurations that a search tries; None searches nothing."""
    base_models: tuple[str, ...] = Field(default=(), max_length=8)
    """That a search tries beside the job's own."""
    minimum_gain: float = Field(default=0.001, ge=0, le=1)
    """A rung is climbed only while it may still gain this much of the first metric (0.001 is 0.1 points)."""

    @property
    def top(self) -> Rung:
        """The highest rung that is climbed: that of a method which is named, else the one that was asked for."""
        return self.method.rung if self.method else self.highest_rung

    def bases(self, own: str) -> tuple[str, ...]:
        """Base models that a job on ``own`` may learn on, its own first, each once."""
        return tuple(dict.fromkeys((own, *self.base_models)))


class JobSpec(Message):
    """One attempt at one job: everything the trainer may know and touch."""

    job: str
    attempt: int = Field(ge=1)
    flow: str
    """Opaque id of the customer, for fairness only."""
    vertical: str
    base_model: str
    rows: Grant
    """Read of the frozen dataset version: Parquet with line, split and one column per role."""
    output: Grant
    """Write below the attempt's own prefix."""
    resume: Grant | None = None
    """Read of the checkpoint folder (of an earlier attempt) to go on from."""
    options: TrainingOptions = TrainingOptions()
    share_millis: int = Field(default=1000, ge=1, le=1000)
    """Share of the device held, in thousandths."""
    max_device_ms: int = Field(gt=0)
    """Device time across this attempt that the customer's budget covers; the trainer ends with its best by then."""
    prior_device_ms: int = 0
    """Device time that earlier attempts used, for progress and reports."""


class EventKind(StrEnum):
    """What a trainer reports."""

    SPAN_OPENED = "span_opened"
    HEARTBEAT = "heartbeat"
    SPAN_CLOSED = "span_closed"
    STARTED = "started"
    MESSAGE = "message"
    METRICS = "metrics"
    CHECKPOINT = "checkpoint"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PAUSED = "paused"
    CANCELLED = "cancelled"


TERMINAL = frozenset({EventKind.SUCCEEDED, EventKind.FAILED, EventKind.PAUSED, EventKind.CANCELLED})


LAST_MS = 253_402_214_400_000
"""The last day of the year 9999: what is later is no time that Python or PostgreSQL can count on from."""


class TrainerEvent(Message):
    """One line of a trainer's append-only spool; (job, attempt, seq) is unique and seq has no gaps from 1."""

    job: str
    attempt: int
    seq: int = Field(ge=1)
    at_ms: int = Field(ge=0, le=LAST_MS)
    """Unix time, milliseconds."""
    kind: EventKind
    level: Literal["info", "warn", "error"] = "info"
    message: str = ""
    data: dict[str, JsonValue] = {}


class JobState(StrEnum):
    """What the data plane believes of an attempt; a hint, never the truth."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    FINISHED = "finished"
    LOST = "lost"


class JobStatus(Message):
    """Answer to start, stop and status."""

    job: str
    attempt: int
    state: JobState


class EventsQuery(Message):
    """Events of an attempt with seq > after; the grant reads the attempt's ``events/`` prefix."""

    grant: Grant
    after: int = Field(default=0, ge=0)
    limit: int = Field(default=500, ge=1, le=5000)


class EventsPage(Message):
    """Events in order of seq, and the attempt's state as it was before they were read."""

    events: tuple[TrainerEvent, ...]
    status: JobStatus


class StopRequest(Message):
    """Pause keeps a checkpoint to go on from; cancel ends the job; kill ends the process of an attempt given up."""

    mode: Literal["pause", "cancel", "kill"]


class ModelRef(Message):
    """A fine-tuned model: the digest that must answer, and leave to read its folder."""

    digest: str
    folder: Grant
    vertical: str
    base_model: str
    served_by: ServedBy = ServedBy.STACKED
    deterministic: bool = False
    """Every row in a forward of its own, so that its answer is the same to the bit whoever else asks; slower."""


class PredictRequest(Message):
    """Rows of roles (without the target) for one model."""

    flow: str
    model: ModelRef
    inputs: tuple[Row, ...] = Field(min_length=1, max_length=1024)
    deadline_ms: int = Field(default=30_000, gt=0)


class Prediction(Message):
    """One answer; probabilities by label where the task has them."""

    output: JsonValue
    score: float | None = None
    probabilities: dict[str, float] | None = None
    out_of_scope: bool | None = None
    interval: tuple[float, float] | None = None
    """Of a number: where new ones lie as often as the model card says."""


class PredictionUsage(Message):
    """What is billed: rows answered, and tokens read (padding not counted)."""

    rows: int = Field(ge=0)
    tokens: int = Field(ge=0)


class PredictReply(Message):
    """Answers, with the digest and generation read from the slot table after the forward."""

    predictions: tuple[Prediction, ...]
    digest: str
    generation: int
    usage: PredictionUsage
    tokens: tuple[int, ...] = ()
    """Of each row, for who asks for many customers' rows at once; empty where none are read."""


class EmbedRequest(Message):
    """Texts for an encoder: of a fine-tuned model, or of the base model alone."""

    flow: str
    base_model: str
    model: ModelRef | None = None
    """None: the base alone answers, under its ``base_digest``."""
    texts: tuple[str, ...] = Field(min_length=1, max_length=1024)
    deadline_ms: int = Field(default=30_000, gt=0)


class EmbedReply(Message):
    """Unit vectors, each as base64 of little-endian 32-bit floats, with the digest read after the forward."""

    vectors: tuple[str, ...]
    width: int = Field(gt=0)
    """Numbers of a vector."""
    digest: str
    generation: int
    usage: PredictionUsage
    tokens: tuple[int, ...] = ()
    """Of each text."""


class LoadRequest(Message):
    """Bring a model's adapter into a slot before the first prediction."""

    model: ModelRef


class LoadReply(Message):
    """The slot's content after loading."""

    digest: str
    generation: int


class Health(Message):
    """What the data plane can do now."""

    ready: bool
    base_models: tuple[str, ...] = ()
    trainers_free: int = 0
    devices: tuple[str, ...] = ()


class Fault(Message):
    """An error answered by the data plane."""

    code: str
    message: str
