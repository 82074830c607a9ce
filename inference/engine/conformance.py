"""What every vertical must hold, checked by running it: a plugin's own test is one call of ``check``."""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import duckdb
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tilth.contract.learning import Rung
from tilth.contract.messages import EventKind, Grant, JobSpec, Row, TrainerEvent, TrainingOptions
from tilth.contract.sealing import KEY, seal
from tilth.contract.vertical import FieldKind, Vertical
from torch import Tensor

from inference.adapters.folder import HEAD, read_folder
from inference.engine.base_models import Base, load_base
from inference.engine.job import run_job
from inference.engine.task import Features, Reopens, Task, load_task
from inference.storage import Storage
from inference.wholes.folder import read_whole

LEAST_ROWS = 100
MOST_FACE_LINES = 60
GRANT_S = 600
SPLIT_OF = ("validation", "test", *["train"] * 8)
"""By a row's place in the file: the kit needs splits, not good ones."""


class NotConforming(AssertionError):
    """The vertical breaks a rule; the message names it and says what was found."""


def check(face: Vertical, folder: Path, models: Path | None = None) -> None:
    """Raises NotConforming unless face, sample, task and a whole job on the frozen base hold what is relied on.

    ``folder`` is the plugin's: ``__init__.py``, ``sample.jsonl``, ``README.md``.
    """
    _face(face, folder)
    rows = _sample(face, folder / "sample.jsonl")
    with TemporaryDirectory() as scratch:
        job = _Job(face, Path(scratch), models)
        _model(face, job.run(rows), rows, job.base)


def _face(face: Vertical, folder: Path) -> None:
    roles = [field.role for field in face.schema_.fields]
    _must(len(set(roles)) == len(roles), f"roles must differ, found {', '.join(roles)}")
    aliases = Counter(alias for field in face.schema_.fields for alias in field.aliases)
    twice = [alias for alias, count in aliases.items() if count > 1]
    _must(not twice, f"a column name may mean one role only; {', '.join(twice)} means two")
    lines = len((folder / "__init__.py").read_text().splitlines())
    _must(lines <= MOST_FACE_LINES, f"the face has {lines} lines; at most {MOST_FACE_LINES} fit on a screen")
    for part in ("## Intended use", "## Limits", "## Licences"):
        found = (folder / "README.md").exists() and part in (folder / "README.md").read_text()
        _must(found, f"README.md is the model card and needs a part {part!r}")


def _sample(face: Vertical, path: Path) -> Sequence[Row]:
    """The sample's rows under the schema's roles."""
    raw = [json.loads(line) for line in path.read_text().splitlines()]
    _must(len(raw) >= LEAST_ROWS, f"sample.jsonl has {len(raw)} rows; at least {LEAST_ROWS} show a vertical")
    columns = {
        field.role: next((name for name in (field.role, *field.aliases) if name in raw[0]), None)
        for field in face.schema_.fields
    }
    rest = face.schema_.free_columns
    free = rest.role if rest else None
    lacking = [face.schema_.field(role) for role, name in columns.items() if name is None and role != free]
    missing = [field.role for field in lacking if field.required]
    _must(not missing, f"sample.jsonl has no column for {', '.join(missing)}; its columns are {', '.join(raw[0])}")
    made: Sequence[Row] = [{role: row.get(name) for role, name in columns.items() if name} for row in raw]
    if free is not None:
        for row, said in zip(made, raw, strict=True):
            row[free] = {name: value for name, value in said.items() if name not in columns.values()}
    return made


def _kinds(rows: Sequence[Row], free: str | None) -> dict[str, str]:
    """Of free columns, plainly: the kit needs some, not the best."""
    cells: list[dict[str, Any]] = [cast("dict[str, Any]", row[free]) for row in rows] if free else []
    names = cells[0] if cells else {}
    return {name: "number" if all(_number(row.get(name)) for row in cells) else "category" for name in names}


def _number(cell: Any) -> bool:
    return cell in (None, "") or isinstance(cell, int | float)


class _Job:
    """A whole job of the vertical in a scratch folder, as a trainer would run it."""

    def __init__(self, face: Vertical, root: Path, models: Path | None) -> None:
        self._face, self._root, self._models = face, root, models
        self._key, self._seal = Ed25519PrivateKey.generate(), os.urandom(KEY)
        self._storage = Storage(self._key.public_key())

    def run(self, rows: Sequence[Row]) -> dict[str, bytes]:
        """The files of the model's folder."""
        spec = JobSpec(
            job="conformance", attempt=1, flow="conformance", vertical=self._face.name,
            base_model=self._face.base_models[0].id, rows=self._frozen(rows), max_device_ms=GRANT_S * 1000,
            output=self._grant("out/", "write"), options=TrainingOptions(highest_rung=Rung.PROBE),
        )  # fmt: skip
        ended = run_job(
            spec, storage=self._storage, stop=lambda: None, base=lambda _: self.base(), heartbeat_s=5
        )  # fmt: skip
        _must(ended is EventKind.SUCCEEDED, f"a job on the sample has {ended.value}: {self._last_word()}")
        return dict(self._written("out/model/"))

    def base(self) -> Base:
        """The face's first."""
        return load_base(self._face.base_models[0], self._models)

    def _last_word(self) -> str:
        told = [
            TrainerEvent.model_validate(each) for _, data in self._written("out/events/") for each in json.loads(data)
        ]
        return next((event.message for event in reversed(told) if event.message), "no word")

    def _written(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        grant = self._grant(prefix, "read")
        for name in self._storage.names(grant):
            yield name, self._storage.read(grant, name)

    def _frozen(self, rows: Sequence[Row]) -> Grant:
        lines = self._root / "rows.jsonl"
        table = [{"line": at, "split": SPLIT_OF[at % len(SPLIT_OF)], **row} for at, row in enumerate(rows)]
        lines.write_text("\n".join(json.dumps(row) for row in table))
        target = self._root / "rows.parquet"
        rest = self._face.schema_.free_columns
        kinds = json.dumps(_kinds(rows, rest.role if rest else None))
        with duckdb.connect() as memory:
            memory.read_json(str(lines), format="newline_delimited", columns=_shape(table[0])).to_table("told")
            memory.execute(f"COPY told TO '{target}' (FORMAT parquet, KV_METADATA {{kinds: '{quoted(kinds)}'}})")
        content = target.read_bytes()
        target.write_bytes(seal(content, self._seal))
        return self._grant("rows.parquet", "read", hashlib.sha256(content).hexdigest())

    def _grant(self, name: str, method: Literal["read", "write"], sha256: str | None = None) -> Grant:
        url, ends = f"file://{self._root}/{name}", int(time.time()) + GRANT_S
        plain = Grant(url=url, method=method, sha256=sha256, key=self._seal.hex(), expires_at=ends)
        return plain.model_copy(update={"signature": self._key.sign(plain.signed_bytes()).hex()})


def _model(face: Vertical, files: dict[str, bytes], rows: Sequence[Row], base: Callable[[], Base]) -> None:
    """What was learned answers one prediction per row, by the labels of the training rows."""
    task = load_task(face)
    features, outputs = _outputs(task, files, rows, base)
    width = task.objective(features).width
    _must(outputs.shape[1] == width, f"the model gives {outputs.shape[1]} outputs, the features say {width}")
    answers: list[Any] = task.answer(outputs, features)
    _must(len(answers) == len(outputs), f"{len(outputs)} rows of outputs gave {len(answers)} predictions")
    target = next(field for field in face.schema_.fields if field.kind in (FieldKind.LABEL, FieldKind.LABELS))
    strange = {label for answer in answers for label in _said(answer.output)}
    strange -= {label for row in rows for label in _said(row[target.role])}
    _must(not strange, f"the model answers {', '.join(sorted(strange))}, which no row of the sample says")
    for answer in answers if target.kind is FieldKind.LABEL else ():
        total = sum((answer.probabilities or {}).values())
        _must(abs(total - 1) < 1e-6, f"the probabilities of an answer sum to {total}")


def _said(labels: Any) -> list[str]:
    """One label, or those of a list."""
    return [str(label) for label in (labels if isinstance(labels, list) else [labels])]


def _outputs(
    task: Task, files: dict[str, bytes], rows: Sequence[Row], base: Callable[[], Base]
) -> tuple[Features, Tensor]:
    """(features, outputs): of a whole model its answers to the sample, of an adapter one row for each output."""
    if HEAD in files:
        folder = read_folder(files)
        return folder.features, torch.eye(folder.head["weight"].shape[0])
    whole = read_whole(files)
    _must(isinstance(task, Reopens), "the model is no adapter, and the task cannot reopen it")
    model = cast("Reopens", task).reopen(whole.kind, whole.files, whole.features, base)
    return whole.features, model.answer(rows).outputs


def _shape(row: Row) -> dict[str, str]:
    """DuckDB's types, as frozen versions have them: free columns are JSON in one text."""
    return {name: "BIGINT" if name == "line" else "VARCHAR" for name in row}


def quoted(text: str) -> str:
    """Within quotes of SQL."""
    return text.replace("'", "''")


def _must(holds: bool, rule: str) -> None:
    if not holds:
        raise NotConforming(rule)
