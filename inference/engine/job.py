"""The whole of one attempt at a job: span, rows, ladder, model folder, the last word."""

import errno
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from tilth.contract.errors import ContractError
from tilth.contract.messages import EventKind, JobSpec, TrainingOptions
from tilth.contract.registry import vertical

from inference.engine import limits
from inference.engine.again import expected, learned_again
from inference.engine.base_models import Base
from inference.engine.candidate import Candidate, Lesson, Session
from inference.engine.checkpoints import write_folder
from inference.engine.data import Splits, read_splits
from inference.engine.errors import JobFault, Stopped
from inference.engine.finish import finish
from inference.engine.keeping import Keeper
from inference.engine.ladder import HEIGHT, Ladder
from inference.engine.memory import told
from inference.engine.precision import device_name
from inference.engine.preflight import preflight
from inference.engine.reporting import Reporter, Stop
from inference.engine.search.leg import Hire
from inference.engine.span import Span
from inference.engine.spill import picked
from inference.engine.spool import Spool
from inference.engine.task import Compares, Features, Task, load_task
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
    hire: Hire | None = None


def run_job(
    spec: JobSpec,
    *,
    storage: Storage,
    stop: Stop,
    base: Callable[[str], Base],
    heartbeat_s: float,
    memory: int | None = None,
    hire: Hire | None = None,
) -> EventKind:
    """Runs an attempt to its last word, which it returns; a job's own fault is an event, never an exception.

    A full disk is an exception without a last word: the attempt is lost, the job is not.

    ``memory``: bytes that this process may hold; None is what the machine gives to one trainer. ``hire``: who goes the
    legs of a search beside it, on the device that this attempt's span holds.
    """
    spool = Spool(storage, spec.output, spec.job, spec.attempt)
    span = Span(
        spool, device=device_name(), share_millis=spec.share_millis, heartbeat_s=heartbeat_s, max_ms=spec.max_device_ms
    )
    with span:
        return _last_word(
            Attempt(spec, storage, spool, base, memory or limits.trainer_memory(1), hire), Reporter(spool, span, stop)
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
    bases = [attempt.base(name) for name in spec.options.bases(spec.base_model)]
    features = task.features(splits.train, splits.kinds)
    lesson = lesson_of(task, features, splits, spec.options)
    _refuse_unlearnable(lesson)
    torch.manual_seed(spec.options.seed)
    wished = _wished(task.candidates(lesson, features, bases, spec.options), spec.options)
    baseline = task.baseline_bytes(lesson.train) if isinstance(task, Compares) else 0
    fits = preflight(wished, len(splits.test), baseline, attempt.memory, attempt.spool)
    _plan(reporter, fits.candidates, lesson, len(splits.test))
    climbed = Ladder(fits.candidates, lesson, spec.options, reporter, keeper, attempt.hire).climb()
    session = Session(reporter, keeper, climbed.done, attempt.hire)
    climbed = learned_again(fits.candidates, lesson, climbed, session)
    attempt.spool.emit(EventKind.MESSAGE, f"Chosen: {climbed.outcome.name}. {climbed.reason}.")
    done = finish(spec, task, features, lesson, splits, climbed, with_baseline=fits.with_baseline)
    model = climbed.outcome.model
    base = model.base or bases[0]
    facts = {
        "job": spec.job, "attempt": spec.attempt, "vertical": spec.vertical, "base_model": base.id,
        "base_revision": base.revision, "rung": climbed.outcome.name, "served_by": model.served_by,
    }  # fmt: skip
    digest = write_folder(attempt.storage, spec.output, "model", done.files, **facts)
    report: dict[str, Any] = json.loads(json.dumps(done.report))
    told = {"path": "model/", "digest": digest, "metrics": done.metrics, "report": report}
    return {**told, "trained_tokens": climbed.tokens}


def lesson_of(task: Task, features: Features, splits: Splits, options: TrainingOptions) -> Lesson:
    """What candidates learn from; training rows without a known target are left out."""
    targets = task.targets(splits.train, features)
    objective = task.objective(features).learned_by(options.loss, targets if options.class_weights else None)
    known = objective.known(targets)
    train = picked(splits.train, known)
    validation = task.targets(splits.validation, features)
    return Lesson(train, splits.validation, targets[known], validation, objective, options.seed)


def _wished(candidates: list[Candidate], options: TrainingOptions) -> list[Candidate]:
    """Up to the highest rung that was asked for; at least one."""
    kept = [each for each in candidates if HEIGHT[each.rung] <= HEIGHT[options.top]]
    return kept or candidates[:1]


def _rows(attempt: Attempt) -> Splits:
    with attempt.storage.fetched(attempt.spec.rows) as path:
        return read_splits(path)


def _refuse_unlearnable(lesson: Lesson) -> None:
    if not len(lesson.train):
        raise JobFault("no_training_rows", "no training row has a target that can be learned; add rows")
    if not lesson.known.any():
        raise JobFault("no_validation_rows", "the validation split has no row of a label that training has; add rows")


def _plan(reporter: Reporter, candidates: list[Candidate], lesson: Lesson, test_rows: int) -> None:
    """Expected work in row passes, with one for each row of test at the end."""
    reporter.total = sum(each.passes() for each in candidates) + expected(candidates, lesson) + test_rows
    reporter.final = test_rows
