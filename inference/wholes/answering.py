"""What the small host answers: its faults turned into answers, so that no traceback crosses."""

import torch
from tilth.contract.messages import LoadReply, LoadRequest, PredictReply, PredictRequest

from inference.adapters.answering import told
from inference.engine import limits
from inference.engine.base_models import Bases
from inference.faults import Faulty
from inference.settings import Settings
from inference.storage import Storage, load_verify_key
from inference.wholes.service import WholeService


class Answering:
    """Many whole models."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        limits.keep_freed()
        storage = Storage(load_verify_key(settings.verify_key))
        self.service = WholeService(storage, Bases(settings.models), capacity=settings.small_models_mb << 20)

    async def predict(self, request: PredictRequest) -> PredictReply | Faulty:
        """Answers rows by one model."""
        return await told(self.service.predict(request))

    async def load(self, request: LoadRequest) -> LoadReply | Faulty:
        """Reads a model."""
        return await told(self.service.load(request))
