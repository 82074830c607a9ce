"""The whole of one attempt at a job: span, rows, ladder, model folder, the last word."""

import errno
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from tilth.contract.errors import ContractError
from tilth.contract.messages import EventKind, JobSpec, Rung, TrainingOptions
from tilth.contract.registry import vertical

from inference.engine import limits
from inference.engine.base_models import Base
from inference.engine.checkpoints import write_folder
from inference.engine.data import Splits, read_splits
from inference.engine.errors import JobFault, Stopped
from inference.engine.finish import finish
from inference.engine.keeping import Keeper
from inference.engine.ladder import Encoded, Ladder
from inference.engine.lora import Recipe
from inference.engine.memory import told
from inference.engine.precision import device_name
from inference.engine.preflight import preflight, work_of
from inference.engine.reporting import Reporter, Stop
from inference.engine.span import Span
from inference.engine.spool import Spool
from inference.engine.task import Examples, load_task
from inference.storage import Storage

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class Attempt:
    """What an attempt works with."""

    spec: JobSpec
    storage: Storage
    spool: Spool
    base: Callable[[str], Base]
    memory: int
    """Bytes that this process may hold."""


def run_job(
    spec: JobSpec,
    *,
    storage: Storage,
    stop: Stop,
    base: Callable[[str], Base],
    heartbeat_s: float,
    memory: int | None = None,
) -> EventKind:
    """Runs an attempt to its last word, which it returns; a job's own fault is an event, never an exception.

    A full disk is an exception without a last word: the attempt is lost, the job is not.

    ``memory``: bytes that this process may hold; None is what the machine gives to one trainer.
    """
    spool = Spool(storage, spec.output, spec.job, spec.attempt)
    span = Span(
        spool, device=device_name(), share_millis=spec.share_millis, heartbeat_s=heartbeat_s, max_ms=spec.max_device_ms
    )
    with span:
        return _last_word(
            Attempt(spec, storage, spool, base, memory or limits.trainer_memory(1)), Reporter(spool, span, stop)
        )


def _last_word(attempt: Attempt, reporter: Reporter) -> EventKind:
    spool = attempt.spool
    grows = limits.growth(attempt.memory)
    try:
        with limits.capped(grows):
            succeeded = _learn(attempt, reporter)
    except Stopped as stopped:
        kind = EventKind.PAUSED if stopped.mode == "pause" else EventKind.CANCELLED
        spool.emit(kind, f"{kind.value.capitalize()} at step {stopped.step}", data={"step": stopped.step})
        return kind
    except JobFault as fault:
        _fail(spool, fault.code, str(fault))
        return EventKind.FAILED
    except (ContractError, FileNotFoundError) as refused:
        _fail(spool, "refused", str(refused))
        return EventKind.FAILED
    except Exception as bug:
        if limits.ran_out(bug):
            _fail(spool, "out_of_memory", _ran_out(grows))
            return EventKind.FAILED
        if isinstance(bug, OSError) and bug.errno in NO_ROOM:
            with suppress(OSError):  # this may find no room, too
                spool.emit(EventKind.MESSAGE, "The storage is full; the job will be tried again.", level="warn")
            raise  # without a last word: a full disk is no fault of the job's, and its next attempt goes on
        # A bug of ours must end the job with a word, not leave it hanging; the traceback goes to the trainer's log.
        _fail(spool, "internal_error", repr(bug))
        raise
    spool.emit(EventKind.SUCCEEDED, "The model is ready", data=succeeded)
    return EventKind.SUCCEEDED


def _fail(spool: Spool, code: str, message: str) -> None:
    spool.emit(EventKind.FAILED, message, level="error", data={"code": code, "message": message})


def _ran_out(grows: int) -> str:
    return (
        f"The job ran out of memory: it may take {told(grows)} beyond its base model, and at most"
        f" {told(limits.peak())} were held in all. Give fewer rows or shorter texts, or a smaller batch_size."
    )


def _learn(attempt: Attempt, reporter: Reporter) -> dict[str, Any]:
    spec = attempt.spec
    keeper = Keeper(attempt.storage, spec, attempt.spool)
    attempt.spool.emit(EventKind.STARTED, "Training started", data={"resumed_from_step": keeper.step})
    splits = _rows(attempt)
    task = load_task(vertical(spec.vertical))
    base = attempt.base(spec.base_model)
    features = task.features(splits.train)
    train, validation = (task.encode(rows, features, base) for rows in (splits.train, splits.validation))
    data = Encoded(_in_scope(train), validation, task.classes(features))
    _refuse_unlearnable(data)
    _plan(reporter, data, spec.options, len(splits.test))
    work = work_of(base, data, spec.options, task.texts(splits.train), len(splits.test))
    fits = preflight(work, attempt.memory, attempt.spool)
    torch.manual_seed(spec.options.seed)
    climbed = Ladder(base, data, spec.options, reporter, keeper, fits.work.batch).climb()
    attempt.spool.emit(EventKind.MESSAGE, f"Chosen: {climbed.outcome.rung.value}. {climbed.reason}.")
    done = finish(spec, base, task, features, splits, climbed, validation, with_baseline=fits.with_baseline)
    facts = {
        "job": spec.job, "attempt": spec.attempt, "vertical": spec.vertical, "base_model": spec.base_model,
        "base_revision": base.revision, "rung": climbed.outcome.rung.value,
    }  # fmt: skip
    digest = write_folder(attempt.storage, spec.output, "model", done.files, **facts)
    tokens = sum(map(len, data.train.ids)) * (1 + (keeper.lora[0].epoch if keeper.lora else 0))
    report: dict[str, Any] = json.loads(json.dumps(done.report))
    return {"path": "model/", "digest": digest, "metrics": done.metrics, "report": report, "trained_tokens": tokens}


def _rows(attempt: Attempt) -> Splits:
    with attempt.storage.fetched(attempt.spec.rows) as path:
        return read_splits(path)


def _in_scope(examples: Examples) -> Examples:
    kept = torch.nonzero(examples.targets >= 0).flatten()
    return replace(examples, ids=[examples.ids[row] for row in kept.tolist()], targets=examples.targets[kept])


def _refuse_unlearnable(data: Encoded) -> None:
    if not int((data.validation.targets >= 0).sum()):
        raise JobFault("no_validation_rows", "the validation split has no row of a label that training has; add rows")


def _plan(reporter: Reporter, data: Encoded, options: TrainingOptions, test_rows: int) -> None:
    """Expected work in row passes: one for the probe, three per row and epoch for LoRA, one at the end."""
    rows, valid = len(data.train), len(data.validation)
    epochs = Recipe.settled(options, rows).epochs if options.highest_rung is Rung.LORA else 0
    reporter.total = rows + valid + epochs * (3.0 * rows + valid) + test_rows
    reporter.final = test_rows
