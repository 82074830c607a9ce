"""What a finished job leaves as files: read back by the programs that they are for, whatever a trainer has said."""

import csv
import io
import re
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tilth.contract.messages import EventKind

from tilth.training.event_file import crc32c  # isort: skip
from tilth.training.results import leaderboard_csv, tensorboard_zip  # isort: skip

BEGAN = datetime(2026, 11, 25, 12, tzinfo=UTC)


def told(*facts: dict[str, Any]) -> list[tuple[datetime, dict[str, Any]]]:
    return [(BEGAN + timedelta(seconds=number), each) for number, each in enumerate(facts)]


def scalars(packed: bytes, at: Path) -> dict[str, dict[str, list[tuple[float, int, float]]]]:
    """Run → tag → (wall time, step, value), by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        archive.extractall(at)
    runs = EventMultiplexer().AddRunsFromDirectory(str(at)).Reload()
    return {
        run: {
            tag: [(event.wall_time, event.step, event.value) for event in runs.Scalars(run, tag)]
            for tag in tags["scalars"]
        }
        for run, tags in runs.Runs().items()
    }


def test_the_checksum_is_the_standards() -> None:
    """RFC 3720, appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes([0xFF] * 32)) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_each_candidate_as_a_run(tmp_path: Path) -> None:
    steps = told(
        {"rung": "probe", "step": 1, "train_loss": 4.34375},
        {"rung": "probe", "step": 300, "train_loss": 2.5},
        {"rung": "lora", "step": 1, "train_loss": 1.5, "learning_rate": 2**-12},
        {"rung": "lora", "step": 1 << 40, "valid_loss": 0.25, "valid_accuracy": 0.9375},
    )
    found = scalars(tensorboard_zip(steps), tmp_path)
    wall = BEGAN.timestamp()
    assert found == {
        "probe": {"train_loss": [(wall, 1, 4.34375), (wall + 1, 300, 2.5)]},
        "lora": {
            "train_loss": [(wall + 2, 1, 1.5)],
            "learning_rate": [(wall + 2, 1, 2**-12)],
            "valid_loss": [(wall + 3, 1 << 40, 0.25)],
            "valid_accuracy": [(wall + 3, 1 << 40, 0.9375)],
        },
    }
    assert tensorboard_zip(steps) == tensorboard_zip(steps)


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_scalar_or_no_name_of_a_folder_harms_nobody(tmp_path: Path) -> None:
    steps = told(
        {"rung": "../../etc/passwd", "step": 1, "train_loss": 1.0},
        {"rung": "probe", "step": True, "said": "words", "big": 1e300, "flag": True},
        {"rung": "probe", "step": -1, "train_loss": 1.0},
        {"rung": None, "step": 2, "train_loss": 2},
    )
    found = scalars(tensorboard_zip(steps), tmp_path / "in")
    assert {run: sorted(tags) for run, tags in found.items()} == {"_etc_passwd": ["train_loss"], "run": ["train_loss"]}
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert tensorboard_zip(told({"rung": "probe", "step": 1})) == b""


def test_the_leaderboard_is_a_line_for_each_candidate_and_each_of_its_trials() -> None:
    report = {
        "leaderboard": [
            {"name": "probe", "rung": "probe", "metric": "auc", "score": 0.75, "interval": [0.7, 0.8],
             "judged_rows": 90, "device_ms": 1200, "strength": 3.0, "curve": [[10, 0.5], [20, 0.6]]},
            {"name": "lora", "rung": "lora", "score": 0.8, "trials": [{"score": 0.7, "rate": 0.1}, {"score": 0.8}]},
            {"name": "=cmd|calc", "rung": "full", "left_out": "the budget ended"},
            "no line at all",
        ]
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(report).decode())))
    assert list(rows[0])[:8] == ["candidate", "trial", "rung", "metric", "score", "low", "high", "judged_rows"]
    assert {name: rows[0][name] for name in ("score", "low", "high", "device_ms", "strength", "curve")} == {
        "score": "0.75", "low": "0.7", "high": "0.8", "device_ms": "1200", "strength": "3.0",
        "curve": "[[10, 0.5], [20, 0.6]]",
    }  # fmt: skip
    assert [(row["candidate"], row["trial"], row["score"], row["rate"]) for row in rows[1:4]] == [
        ("lora", "", "0.8", ""), ("lora", "1", "0.7", "0.1"), ("lora", "2", "0.8", ""),
    ]  # fmt: skip
    assert (rows[4]["candidate"], rows[4]["left_out"]) == ("'=cmd|calc", "the budget ended")


@pytest.mark.parametrize("report", [None, "words", {}, {"leaderboard": 7}, {"leaderboard": ["a", 1]}])
def test_a_report_without_a_leaderboard_leaves_no_such_file(report: Any) -> None:
    assert leaderboard_csv(report) == b""


@pytest.mark.filterwarnings("ignore")
def test_a_finished_jobs_files_are_the_customers_and_its_page_offers_them(
    rig: Any, tenant: Any, tmp_path: Path
) -> None:
    from tilth.core import storage
    from tilth.core.ids import parse
    from tilth.core.scope import tenant_scope
    from tilth.datasets.selectors import file_get
    from tilth.training.models import Event
    from tilth.training.selectors import job_get
    from tilth.training.shapes import job_shape

    job = rig.queued(tenant)
    rig.turn()
    shape = job_shape(job_get(tenant=tenant.id, job=job))
    files = {
        file.filename: file
        for file in (file_get(tenant=tenant.id, file=parse("file", id_)) for id_ in shape["result_files"])
    }
    assert list(files) == ["step_metrics.csv", "leaderboard.csv", "tensorboard.zip"]
    found = scalars(storage.read(files["tensorboard.zip"].path), tmp_path)
    with tenant_scope(tenant.id):
        data = [event.data for event in Event.objects.filter(job_id=job, kind=EventKind.METRICS).order_by("number")]
    steps, losses = zip(*((step, value) for _, step, value in found["lora"]["train_loss"]), strict=True)
    assert list(steps) == [each["step"] for each in data]
    assert list(losses) == pytest.approx([each["train_loss"] for each in data])
    board = list(csv.DictReader(io.StringIO(storage.read(files["leaderboard.csv"].path).decode())))
    assert [row["candidate"] for row in board] == ["lora"]
    page = tenant.browser.get(f"/jobs/{shape['id']}").content.decode()
    for file, (filename, _) in zip(shape["result_files"], files.items(), strict=True):
        assert f'<a href="/v1/files/{file}/content" download="{filename}">' in page
    assert re.search(r"<dd>about [\d,]+ s, \$\d+\.\d\d; at most [\d,]+ s, \$\d+\.\d\d</dd>", page)
