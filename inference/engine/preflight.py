"""Before anything is learned: what the work will take of memory beside what is there, told to the customer."""

from typing import Any

from tilth.contract.messages import EventKind, Rung, TrainingOptions

from inference.engine import limits
from inference.engine.base_models import Base
from inference.engine.ladder import Encoded
from inference.engine.lora import EVALUATION_BATCH, Recipe
from inference.engine.memory import Encoder, Plan, Work, plan, told
from inference.engine.precision import has_fast_bf16
from inference.engine.spool import Spool


def work_of(base: Base, data: Encoded, options: TrainingOptions, texts: list[str], tests: int) -> Work:
    """The shapes of a job; ``texts`` are those of the training rows."""
    recipe = Recipe.settled(options, len(data.train))
    return Work(
        encoder=_shape(base),
        rows=(len(data.train), len(data.validation), tests),
        longest=max(map(len, [*data.train.ids, *data.validation.ids])),
        classes=data.classes,
        characters=sum(map(len, texts)),
        rank=recipe.rank if options.highest_rung is Rung.LORA else 0,
        batch=min(recipe.batch_size, len(data.train)),
        evaluated=EVALUATION_BATCH,
        half=has_fast_bf16(),
    )


def preflight(work: Work, limit: int, spool: Spool) -> Plan:
    """How the work is done below a limit of bytes; raises JobFault with the number for work that cannot fit."""
    resident, available = limits.resident(), limits.growth(limit)
    found = plan(work, available)
    predicted = resident + (found.need.whole if found.with_baseline else found.need.peak)
    smaller = f"; {found.work.batch} rows of a batch of {work.batch} at once" if found.work.batch < work.batch else ""
    left_out = "" if found.with_baseline else "; without TF-IDF beside it"
    message = f"Memory: about {told(predicted)} of {told(resident + available)}{smaller}{left_out}"
    facts = {"predicted_bytes": predicted, "resident_bytes": resident, "available_bytes": available}
    spool.emit(EventKind.MESSAGE, message, data={**facts, "rows_at_once": found.work.batch})
    return found


def _shape(base: Base) -> Encoder:
    facts: Any = base.model.config
    parameters = sum(part.numel() for part in base.model.parameters())
    return Encoder(
        facts.hidden_size, facts.intermediate_size, facts.num_hidden_layers, facts.num_attention_heads, parameters
    )
