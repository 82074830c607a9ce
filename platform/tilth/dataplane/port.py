"""The port to the data plane: what the worker may ask of it, and how it may fail."""

from typing import Literal, Protocol

from tilth.contract.messages import (
    EmbedReply,
    EmbedRequest,
    EventsPage,
    EventsQuery,
    Health,
    JobSpec,
    JobStatus,
    LoadReply,
    LoadRequest,
    PredictReply,
    PredictRequest,
)
from tilth.core.errors import Invalid, Unavailable

StopMode = Literal["pause", "cancel", "kill"]


class DataPlaneDown(Unavailable):
    """It cannot be reached, does not answer, or answers nonsense: worth another try, says nothing of any job."""

    code = "data_plane_down"


class NoTrainerFree(Unavailable):
    """It is well and all its trainers are busy; nothing was started."""

    code = "no_trainer_free"


class DataPlaneRefused(Invalid):
    """It understood and refuses for good (its code and message are kept): trying again would change nothing."""

    code = "refused_by_data_plane"


class DataPlane(Protocol):
    """Every call raises DataPlaneDown when the infrastructure fails; all of them may be repeated."""

    def start(self, spec: JobSpec) -> JobStatus:
        """Starts an attempt, or finds it started; raises NoTrainerFree, DataPlaneRefused."""

    def events(self, job: str, attempt: int, query: EventsQuery) -> EventsPage:
        """Events after ``query.after``, and the attempt's state as it was before they were read."""

    def stop(self, job: str, attempt: int, mode: StopMode) -> JobStatus:
        """Asks an attempt to pause or to end; its events tell when it has."""

    def status(self, job: str, attempt: int) -> JobStatus:
        """What is believed of an attempt."""

    def load(self, request: LoadRequest) -> LoadReply:
        """Brings a model into a slot; raises NoTrainerFree never, DataPlaneRefused for a wrong digest."""

    def predict(self, request: PredictRequest) -> PredictReply:
        """Answers rows for a batch, whose flow waits its turn; raises DataPlaneRefused for rows it cannot read."""

    def embed(self, request: EmbedRequest) -> EmbedReply:
        """The same of texts."""

    def health(self) -> Health:
        """What can be done now."""
