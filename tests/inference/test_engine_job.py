"""A whole attempt on a tiny base: events, model folder, resume, pause, cancel, budget, and what cannot be learned."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save
from tilth.contract import registry
from tilth.contract.learning import Rung
from tilth.contract.messages import EventKind, Grant
from tilth.contract.vertical import BaseModelOffer
from transformers import BertModel

from inference.adapters.folder import FolderRefused, read_folder
from inference.adapters.pooling import mean_pooled
from inference.engine.base_models import Base
from inference.engine.batches import padded
from inference.engine.checkpoints import STATE, TENSORS, write_folder
from inference.engine.errors import BudgetReached
from inference.storage import Storage
from tests.inference.attempts import LABELS, Attempts, options_that_always_climb, rows, tiny_face


@pytest.fixture(autouse=True)
def _tiny_vertical(monkeypatch: pytest.MonkeyPatch, tiny_offer: BaseModelOffer) -> None:
    monkeypatch.setattr(registry, "verticals", lambda: {"tiny": tiny_face(tiny_offer)})


@pytest.fixture
def attempts(place: Any, tiny: Base) -> Attempts:
    return Attempts(place, tiny)


@pytest.mark.slow
def test_a_job_reports_every_step_and_leaves_a_model(attempts: Attempts) -> None:
    assert attempts.run() is EventKind.SUCCEEDED
    kinds = attempts.kinds()
    assert kinds[:2] == [EventKind.SPAN_OPENED, EventKind.STARTED]
    assert kinds[-2:] == [EventKind.SUCCEEDED, EventKind.SPAN_CLOSED]
    assert [event.seq for event in attempts.place.events("1")] == list(range(1, len(kinds) + 1))
    succeeded = attempts.last(EventKind.SUCCEEDED)
    folder = read_folder(attempts.folder())
    assert succeeded["digest"] == folder.digest
    assert set(succeeded["report"]["baselines"]) == {"majority", "tfidf_svm"}
    assert succeeded["report"]["scope"]["rows"] == 4
    assert succeeded["metrics"]["accuracy"] >= 0.9


@pytest.mark.slow
def test_a_full_disk_loses_the_attempt_and_not_the_job(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Storage.write

    def write_what_fits(storage: Storage, grant: Grant, name: str, data: bytes) -> None:
        if name.startswith("checkpoints/"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(storage, grant, name, data)

    with monkeypatch.context() as full:
        full.setattr(Storage, "write", write_what_fits)
        with pytest.raises(OSError, match="No space left"):
            attempts.run()
    kinds = attempts.kinds()
    assert kinds[-2:] == [EventKind.MESSAGE, EventKind.SPAN_CLOSED]
    assert EventKind.FAILED not in kinds
    assert attempts.run(attempt=2) is EventKind.SUCCEEDED


@pytest.mark.slow
@pytest.mark.parametrize("rung", [Rung.PROBE, Rung.LORA])
def test_peft_loads_the_folder_and_gives_the_same_logits(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rung: Rung
) -> None:
    options_that_always_climb(monkeypatch)
    assert attempts.run(highest_rung=rung) is EventKind.SUCCEEDED
    folder = read_folder(attempts.folder())
    (tmp_path / "plain").mkdir()
    for name, data in attempts.folder().items():
        (tmp_path / "plain" / name).write_bytes(data)
    assert (folder.manifest["rung"], bool(folder.lora)) == (rung, rung is Rung.LORA)
    again = BertModel.from_pretrained(attempts.base.tokenizer.name_or_path)
    model = PeftModel.from_pretrained(again, tmp_path / "plain").eval()
    input_ids, mask = padded([[5, 6, 7]])
    with torch.no_grad():  # peft's on the CPU, ours where the product computes
        vector = mean_pooled(model(input_ids=input_ids, attention_mask=mask).last_hidden_state, mask)[0]
    from inference.adapters.pool import Pool
    from inference.adapters.stacked import StackedModel
    from inference.engine.heads import linear_names

    stacked = StackedModel(attempts.base.model, linear_names(attempts.base.model), slots=2, rank=16)
    slot = Pool(stacked.table, stacked.hidden_size).pin(folder.digest, lambda: folder).number
    (found,) = stacked.vectors(input_ids, mask, [slot])
    ours = stacked.table.content(slot).logits(found)
    theirs = folder.head["weight"] @ vector + folder.head["bias"]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_ends_with_exactly_the_weights_of_an_uninterrupted_one(
    place: Any, tiny: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    options_that_always_climb(monkeypatch)
    attempts = Attempts(place, tiny)
    assert attempts.run(1) is EventKind.SUCCEEDED
    asked = iter(range(10_000))
    assert attempts.run(2, stop=lambda: "pause" if next(asked) > 12 else None) is EventKind.PAUSED
    paused = attempts.last(EventKind.PAUSED, 2)["step"]
    checkpoint = attempts.last(EventKind.CHECKPOINT, 2)
    assert checkpoint["step"] == paused > 0
    assert attempts.run(3, resume=f"2/{checkpoint['path']}") is EventKind.SUCCEEDED
    assert attempts.last(EventKind.STARTED, 3) == {"resumed_from_step": paused}
    whole, resumed = (read_folder(attempts.folder(n)) for n in (1, 3))
    for name, weights in whole.lora.items():
        assert torch.equal(weights.a, resumed.lora[name].a)
        assert torch.equal(weights.b, resumed.lora[name].b)
    assert torch.equal(whole.head["weight"], resumed.head["weight"])


@pytest.mark.slow
def test_a_pause_at_any_moment_writes_no_step_twice(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    options_that_always_climb(monkeypatch)
    paused: list[int] = []
    for moment in range(100):
        asked = iter(range(10_000))
        kind = attempts.run(moment + 1, stop=lambda: "pause" if next(asked) >= moment else None)  # noqa: B023
        if kind is EventKind.SUCCEEDED:
            break
        events = attempts.place.events(str(moment + 1))
        steps = [event.data["step"] for event in events if event.kind is EventKind.CHECKPOINT]
        paused.append(attempts.last(EventKind.PAUSED, moment + 1)["step"])
        assert len(steps) == len(set(steps))
        assert (steps[-1] if steps else 0) == paused[-1]
    assert max(paused) > 4
    assert {0, 1, 2} <= set(paused)


def test_a_cancelled_job_says_so_and_leaves_no_model(attempts: Attempts) -> None:
    assert attempts.run(stop=lambda: "cancel") is EventKind.CANCELLED
    assert not (attempts.place.root / "1/model").exists()
    assert attempts.kinds()[-1] is EventKind.SPAN_CLOSED


@pytest.mark.slow
def test_the_budget_ends_a_job_with_its_best_so_far(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    options_that_always_climb(monkeypatch)
    monkeypatch.setattr("inference.engine.adapting.climb.PATIENCE", 100)  # on a quick machine it ends before the budget
    attempts.run(1, highest_rung=Rung.PROBE)
    probe_ms = attempts.last(EventKind.SPAN_CLOSED)["device_ms"]
    assert attempts.run(2, max_device_ms=probe_ms + 400, epochs=100) is EventKind.SUCCEEDED
    assert any("used up" in event.message for event in attempts.place.events("2"))
    assert attempts.last(EventKind.SPAN_CLOSED, 2)["device_ms"] <= probe_ms + 400


def test_a_budget_for_nothing_at_all_fails_with_the_cure(attempts: Attempts) -> None:
    assert attempts.run(max_device_ms=1) is EventKind.FAILED
    failed = attempts.last(EventKind.FAILED)
    assert (failed["code"], "raise the budget" in failed["message"]) == ("budget_too_small", True)


def test_a_single_class_is_refused_by_name(attempts: Attempts) -> None:
    only = [row for row in rows() if row["label"] in {"card", "oos"}]
    assert attempts.run(data=only) is EventKind.FAILED
    failed = attempts.last(EventKind.FAILED)
    assert failed["code"] == "single_class"
    assert "'card'" in failed["message"]


def test_rows_that_changed_after_they_were_frozen_are_refused(attempts: Attempts) -> None:
    dataset = attempts.place.dataset
    attempts.place.dataset = lambda made: dataset(made).model_copy(update={"sha256": "0" * 64})
    assert attempts.run() is EventKind.FAILED
    assert attempts.last(EventKind.FAILED)["code"] == "refused"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "answer"),
    [
        ("steps.Run.step", lambda *_: float("nan")),
        ("climb.evaluate_logits", lambda _, rows: torch.full((len(rows), 3), float("nan"))),
    ],
)
def test_a_divergent_run_fails_with_the_cure(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch, part: str, answer: Any
) -> None:
    options_that_always_climb(monkeypatch)
    monkeypatch.setattr(f"inference.engine.adapting.{part}", answer)
    assert attempts.run() is EventKind.FAILED
    failed = attempts.last(EventKind.FAILED)
    assert (failed["code"], "learning_rate_multiplier" in failed["message"]) == ("diverged", True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["features.json", "head.safetensors", "README.md"])
def test_any_changed_byte_changes_the_digest(attempts: Attempts, name: str) -> None:
    attempts.run(highest_rung=Rung.PROBE)
    files = attempts.folder()
    with pytest.raises(FolderRefused, match="manifest says"):
        read_folder({**files, name: files[name] + b" "})


def test_a_pickle_in_the_folder_is_refused(attempts: Attempts) -> None:
    attempts.run(highest_rung=Rung.PROBE)
    with pytest.raises(FolderRefused, match=r"pytorch_model\.bin"):
        read_folder({**attempts.folder(), "pytorch_model.bin": b"\x80\x04."})


def test_a_folder_without_its_manifest_does_not_count(attempts: Attempts) -> None:
    attempts.run(highest_rung=Rung.PROBE)
    files = attempts.folder()
    assert json.loads(files["MANIFEST.json"])["job"] == "j"
    del files["MANIFEST.json"]
    with pytest.raises(FolderRefused, match="not written to the end"):
        read_folder(files)


def test_a_checkpoint_of_an_earlier_version_is_refused_with_the_cure(attempts: Attempts) -> None:
    files = {STATE: b'{"rung": "probe", "step": 0}', TENSORS: save({"random": torch.get_rng_state()})}
    write_folder(attempts.place.storage, attempts.place.grant("1/", "write"), "checkpoints/0", files)
    assert attempts.run(2, resume="1/checkpoints/0/") is EventKind.FAILED
    failed = attempts.last(EventKind.FAILED, 2)
    assert failed["code"] == "checkpoint_unreadable"
    assert "earlier version; start the job again" in failed["message"]


@pytest.mark.slow
def test_flipped_labels_are_suspected_with_their_lines(attempts: Attempts) -> None:
    data = rows(100)
    train = [at for at, row in enumerate(data) if row["split"] == "train" and row["label"] != "oos"]
    flipped = train[7::20]
    names = sorted(LABELS)
    for at in flipped:
        data[at] = {**data[at], "label": names[(names.index(data[at]["label"]) + 1) % 3]}
    assert attempts.run(data=data, highest_rung=Rung.PROBE) is EventKind.SUCCEEDED
    report = attempts.last(EventKind.SUCCEEDED)["report"]
    listed = {row["line"]: row for row in report["suspects"]["rows"]}
    right = [at for at in flipped if at + 1 in listed]
    assert len(right) / len(listed) >= 0.6
    assert len(right) / len(flipped) >= 0.6
    for at in right:
        assert listed[at + 1]["label"] == data[at]["label"]
        assert listed[at + 1]["likely"] == names[(names.index(data[at]["label"]) - 1) % 3]
    assert report["more_rows"].startswith("From ")


def test_a_budget_that_ends_while_the_probe_is_cross_fitted_leaves_the_probe(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> None:
        raise BudgetReached("used up")

    monkeypatch.setattr("inference.engine.probe._crossed", ended)
    assert attempts.run(highest_rung=Rung.PROBE) is EventKind.SUCCEEDED
    report = attempts.last(EventKind.SUCCEEDED)["report"]
    assert (report["rung"], report["suspects"], report["more_rows"]) == ("probe", None, None)


@pytest.mark.slow
def test_data_that_do_not_fit_into_memory_give_the_same_model(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempts.run(1) is EventKind.SUCCEEDED
    monkeypatch.setattr("inference.engine.spill.KEPT", 1000)
    monkeypatch.setattr("inference.engine.data.FETCHED", 7)
    monkeypatch.setattr("inference.engine.encoder.ENCODED", 11)
    monkeypatch.setattr("inference.engine.fitting.FITTED", 13)
    assert attempts.run(2) is EventKind.SUCCEEDED
    held, spilled = (attempts.last(EventKind.SUCCEEDED, attempt) for attempt in (1, 2))
    assert spilled["metrics"] == pytest.approx(held["metrics"], abs=2e-3)
    assert held["report"]["suspects"] is not None
    assert spilled["report"]["suspects"] is None, "cross-fitting would take copies of the features"


@pytest.mark.slow
def test_memory_that_ends_over_the_plain_baseline_costs_no_model(
    attempts: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object) -> float:
        raise ImportError("sklearn.so: cannot map zero-fill pages")

    monkeypatch.setattr("inference.tasks.text.tfidf_svm", short)
    assert attempts.run(highest_rung=Rung.PROBE) is EventKind.SUCCEEDED
    assert set(attempts.last(EventKind.SUCCEEDED)["report"]["baselines"]) == {"majority"}
