"""What a host answers: the service of a base model, its faults turned into answers so that no traceback crosses."""

import logging
from collections.abc import Awaitable
from typing import TypeVar

import torch
from tilth.contract.errors import ContractError, GrantRefused, SealBroken
from tilth.contract.messages import EmbedReply, EmbedRequest, LoadReply, LoadRequest, PredictReply, PredictRequest
from tilth.contract.vertical import BaseModelOffer

from inference.adapters.flows import Overloaded
from inference.adapters.folder import FolderRefused
from inference.adapters.service import BaseService, MixedAnswer, TooLong
from inference.engine import limits
from inference.engine.base_models import load_base
from inference.engine.errors import JobFault
from inference.engine.precision import served_dtype
from inference.faults import Faulty, fault
from inference.settings import Settings
from inference.storage import Storage, load_verify_key

log = logging.getLogger(__name__)
A = TypeVar("A")
FAULTS = (Overloaded, MixedAnswer, ContractError, JobFault, FileNotFoundError)
"""What is told; everything else is a bug."""


class Answering:
    """One base, many adapters."""

    def __init__(self, offer: BaseModelOffer, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        limits.keep_freed()
        storage = Storage(load_verify_key(settings.verify_key))
        self.service = BaseService(
            load_base(offer, settings.models), storage, slots=settings.slots, memory_mb=settings.adapter_memory_mb,
            dtype=served_dtype(settings.precision), deterministic=settings.deterministic,
        )  # fmt: skip

    async def predict(self, request: PredictRequest) -> PredictReply | Faulty:
        """Answers rows by one model."""
        return await told(self.service.predict(request))

    async def embed(self, request: EmbedRequest) -> EmbedReply | Faulty:
        """Unit vectors of texts."""
        return await told(self.service.embed(request))

    async def load(self, request: LoadRequest) -> LoadReply | Faulty:
        """Brings a model into a slot."""
        return await told(self.service.load(request))


async def told(asked: Awaitable[A]) -> A | Faulty:
    """The answer, or the fault that its error is told as."""
    try:
        return await asked
    except FAULTS as error:
        return answered(error)


def answered(error: Exception) -> Faulty:
    """The fault that tells of an error."""
    match error:
        case Overloaded():
            return fault(503, "overloaded", str(error))
        case MixedAnswer():
            return fault(503, "digest_mismatch", str(error))
        case FolderRefused():
            return fault(422, "model_refused", str(error))
        case TooLong():
            return fault(422, "input_too_long", str(error))
        case FileNotFoundError():
            log.error("a model's folder is not in storage: %s", error)
            return fault(422, "model_missing", "the model's folder is not in storage")
        case SealBroken():
            log.error("a model's folder cannot be unsealed: %s", error)
            return fault(422, "seal_broken", "the model's folder cannot be unsealed")
        case GrantRefused():  # the control plane's doing, never the customer's
            log.error("a grant is refused: %s", error)
            return fault(403, "grant_refused", "the grant for the model's folder is refused")
    return fault(422, "refused", str(error))
