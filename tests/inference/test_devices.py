"""Which device a process computes on, what it takes of it, and that this is what is billed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tilth.contract.messages import EventKind, JobSpec
from transformers import BertModel, BertTokenizer

from inference.engine.base_models import load_base
from inference.engine.precision import device, device_name, device_of
from inference.settings import settings


def test_a_base_lies_where_the_process_computes_and_that_is_what_is_billed(tiny: Any) -> None:
    assert device_of(tiny.model) == device()
    assert device_name() == "cpu:0" or len(device_name()) == len("cuda:") + 36


def test_a_base_that_was_saved_in_half_precision_learns_in_fp32(
    tiny_folder: Path, tiny_offer: Any, tmp_path: Path
) -> None:
    BertModel.from_pretrained(tiny_folder / "tiny").bfloat16().save_pretrained(tmp_path / "half")
    BertTokenizer.from_pretrained(tiny_folder / "tiny").save_pretrained(tmp_path / "half")
    base = load_base(tiny_offer.model_copy(update={"source": "local:half"}), tmp_path)
    assert {part.dtype for part in base.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("told", "millis"),
    [({}, 1000), ({"TILTH_MAX_TRAINERS": "2"}, 500), ({"TILTH_MAX_TRAINERS": "1500"}, 1),
     ({"TILTH_GPU_SHARE": "0.25", "TILTH_MAX_TRAINERS": "2"}, 250),
     ({"TILTH_GPU_SHARE": "1"}, 1000)],
)  # fmt: skip
def test_a_trainer_holds_its_part_of_the_gpu_or_an_equal_part_of_the_cpu(told: dict[str, str], millis: int) -> None:
    assert settings(told).trainer_share_millis == millis


def test_what_a_trainer_holds_is_what_its_span_says(monkeypatch: pytest.MonkeyPatch, place: Any) -> None:
    from inference.actors.trainer import Trainer

    spec = JobSpec(
        job="j", attempt=1, flow="f", vertical="support_chat", base_model="minilm-l6", rows=place.grant("rows"),
        output=place.grant("1/", "write"), max_device_ms=1000,
    )  # fmt: skip
    told: list[JobSpec] = []

    def run_job(spec: JobSpec, **_: Any) -> EventKind:
        told.append(spec)
        return EventKind.SUCCEEDED

    monkeypatch.setattr(Trainer, "__init__", lambda self: None)
    trainer = Trainer()  # type: ignore[call-arg]
    for name, value in {"_settings": settings({"TILTH_MAX_TRAINERS": "4"}), "_storage": None, "_stop": None,
                        "_memory": 1, "_run_job": run_job}.items():  # fmt: skip
        setattr(trainer, name, value)
    trainer.run(spec)
    trainer.run(spec.model_copy(update={"share_millis": 100}))
    assert [each.share_millis for each in told] == [250, 100]


@pytest.mark.parametrize("text", ["2", "-0.1", "half", "nan"])
def test_a_share_of_a_gpu_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"TILTH_GPU_SHARE must be a number from 0 to 1, found '{text}'"):
        settings({"TILTH_GPU_SHARE": text})


@pytest.mark.filterwarnings("ignore")  # of Serve's own, as it is imported
@pytest.mark.slow
def test_every_host_asks_ray_for_its_part_of_a_gpu() -> None:
    from inference import app

    made = [each for _, each in app._apps(settings({"TILTH_GPU_SHARE": "0.5"}))]
    assert len(made) >= 2
    assert {each._bound_deployment.ray_actor_options["num_gpus"] for each in made} == {0.5}
