"""A candidate: one way to learn a lesson. The engine gives every one of them everything else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from tilth.contract.learning import Rung
from tilth.contract.messages import Row, ServedBy
from torch import Tensor

from inference.engine.base_models import Base
from inference.engine.objectives.objective import Objective

if TYPE_CHECKING:
    from inference.engine.keeping import Keeper
    from inference.engine.reporting import Reporter
    from inference.engine.search.leg import Hire


@dataclass(frozen=True)
class Lesson:
    """What every candidate learns from: training rows with known targets, and all rows of validation."""

    train: Sequence[Row]
    validation: Sequence[Row]
    train_targets: Tensor
    validation_targets: Tensor
    objective: Objective
    seed: int = 0

    @property
    def known(self) -> Tensor:
        """[validation rows] bool: those that can be judged."""
        return self.objective.known(self.validation_targets)


class Model(Protocol):
    """A model that has learned."""

    @property
    def kind(self) -> str:
        """By which name a task reopens it."""

    @property
    def served_by(self) -> ServedBy:
        """What kind of host answers by it."""

    @property
    def base(self) -> Base | None:
        """The base model that it needs; None where it needs none."""

    def outputs(self, rows: Sequence[Row]) -> Tensor:
        """[rows, width]."""

    def files(self) -> Mapping[str, bytes]:
        """Safetensors, JSON or plain text by name, never a pickle; the candidate's ``reopen`` reads them."""


@dataclass(frozen=True)
class Outcome:
    """What a candidate gives."""

    name: str
    rung: Rung
    model: Model
    valid: Tensor
    """[validation rows, width], by a model that has not seen them."""
    crossed: Tensor | None = None
    """[training rows, width]: each row by a model that has not seen it (cross-fitting); None where that is too dear."""
    tokens: int = 0
    """Read while learning."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the report: what was chosen, and by which figure."""


@dataclass(frozen=True)
class Session:
    """What a candidate may use while it learns."""

    reporter: "Reporter"
    keeper: "Keeper"
    done: Mapping[str, Outcome]
    """By the candidates before."""
    hire: "Hire | None" = None
    """Who goes the legs of a search beside this process; None: nobody."""


class Candidate(Protocol):
    """One way to learn; ``name`` is unique in a task."""

    @property
    def name(self) -> str:
        """In the report and the folder."""

    @property
    def title(self) -> str:
        """In a sentence: "LoRA", "the scorecard"."""

    @property
    def rung(self) -> Rung:
        """How dear it is: dearer ones are climbed only while they may still gain enough."""

    @property
    def rows_at_once(self) -> int | None:
        """Rows that go forward and back together; None where nothing does."""

    def size(self) -> str:
        """What it learns from, in a sentence: "1,000 rows of at most 128 tokens and 77 classes"."""

    def need(self, tests: int) -> int:
        """Bytes above what is resident before, at the fullest moment, so many rows of test included."""

    def smaller(self) -> Self | None:
        """The same with less memory, to the same result; None if it cannot."""

    def passes(self) -> float:
        """Expected work in row passes, for the progress that is shown."""

    def learn(self, session: Session) -> Outcome | None:
        """Learns; None if the budget ended before there was a model. Raises Stopped, BudgetReached, JobFault."""

    def reopen(self, files: Mapping[str, bytes]) -> Model:
        """The model of files that it packed."""


@runtime_checkable
class Refines(Protocol):
    """A candidate that does once more, and better, what another has found."""

    @property
    def refines(self) -> str:
        """The other's name. It takes the other's place unless it is surely worse on validation."""


@runtime_checkable
class Dispensable(Protocol):
    """A candidate that the others may do without."""

    @property
    def dispensable(self) -> bool:
        """Left out where memory is too short for it, instead of the whole job."""
