"""Methods, optimisers and losses by name: each learns, is kept, read again and served as what it learned."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from tilth.contract import learning
from tilth.contract.learning import LOSSES, Loss, Method, Optimiser, Rung, Targets
from tilth.contract.messages import Row, ServedBy, TrainingOptions
from tilth.contract.vertical import FieldKind
from torch import Tensor

from inference.adapters.folder import FolderRefused
from inference.engine.adapting.classifier import Classifier, evaluate_logits, of_encoder
from inference.engine.adapting.climb import reopened, work_of
from inference.engine.adapting.methods import METHODS, WEIGHTS, adapted
from inference.engine.adapting.optimisers import OPTIMISERS
from inference.engine.adapting.recipe import Recipe
from inference.engine.adapting.served import whole_encoder
from inference.engine.adapting.steps import Run
from inference.engine.base_models import Base
from inference.engine.batches import batch_of
from inference.engine.candidate import Lesson
from inference.engine.checkpoints import optimiser_tensors, restore_optimiser
from inference.engine.encoder import TextEncoder
from inference.engine.errors import JobFault
from inference.engine.heads import Head, head_file
from inference.engine.memory import trained_token
from inference.engine.objectives import losses
from inference.engine.objectives.number import Number
from inference.engine.objectives.single_label import SingleLabel
from inference.engine.precision import device
from inference.engine.task import Examples

ABC = SingleLabel(("a", "b", "c"))
RECIPE = Recipe(rank=4, epochs=1, batch_size=8, rate=1.0, seed=0, layers=1)
NAMED = list(METHODS)


def head() -> Head:
    torch.manual_seed(1)
    return Head(torch.randn(3, 32), torch.zeros(3))


def examples(rows: int = 24, tokens: int = 9) -> Examples:
    made = torch.Generator().manual_seed(rows)
    ids = [torch.randint(5, 25, (3 + row % (tokens - 3),), generator=made).tolist() for row in range(rows)]
    return Examples(ids, torch.arange(rows) % 3)


def learned(base: Base, method: Method, recipe: Recipe = RECIPE, steps: int = 8) -> tuple[Classifier, list[float]]:
    model = Classifier(base, head(), METHODS[method], recipe)
    run = Run(model, recipe, ABC, steps=steps)
    batch = batch_of(examples(), torch.arange(24))
    return model, [run.step(batch, at) for at in range(steps)]


def test_the_registries_hold_what_customers_may_name() -> None:
    assert {*METHODS, Method.PROBE} == set(Method)
    assert set(OPTIMISERS) == set(Optimiser)
    assert {*losses.LABEL, *losses.NUMBER} == set(Loss)
    assert {kind: set(names) for kind, names in LOSSES.items()} == {
        FieldKind.LABEL: set(losses.LABEL),
        FieldKind.LABELS: set(losses.MANY),
        FieldKind.NUMBER: set(losses.NUMBER),
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", NAMED)
def test_a_method_learns_what_it_says_and_nothing_else(tiny: Base, method: Method) -> None:
    before = {name: part.clone() for name, part in tiny.model.named_parameters()}
    model, told = learned(tiny, method)
    assert told[-1] < told[0]
    assert all(part.equal(before[name]) for name, part in tiny.model.named_parameters())
    learns = sum(part.numel() for part in model.encoder.parameters() if part.requires_grad)
    assert learns == METHODS[method].size(tiny.model, RECIPE)
    start = Classifier(tiny, head(), METHODS[method], RECIPE).learned()
    moved = {name for name, tensor in model.learned().items() if not tensor.equal(start[name])}
    assert len(moved) >= 0.5 * len(start)


@pytest.mark.slow
@pytest.mark.parametrize("method", NAMED)
def test_the_files_give_the_same_model_to_the_trainer_and_to_a_host(tiny: Base, method: Method) -> None:
    model, _ = learned(tiny, method)
    rows = examples(10)
    wanted = evaluate_logits(model, rows).detach()
    files = METHODS[method].files(of_encoder(model.learned()), tiny, RECIPE)
    own = Head(model.head.weight.detach(), model.head.bias.detach())
    again = reopened(encoder_of(tiny, rows), method, files | head_file(own))
    torch.testing.assert_close(again.outputs([{"at": at} for at in range(10)]), wanted, rtol=1e-5, atol=1e-5)
    assert again.files().keys() == (files | head_file(own)).keys()
    whole = whole_encoder(method, again.files(), lambda: tiny, lambda _: lambda _: list(rows.ids))
    found = whole.answer([{}] * 10)
    assert found.tokens == tuple(map(len, rows.ids))
    assert whole.held > 0
    torch.testing.assert_close(found.outputs.softmax(1), wanted.softmax(1), rtol=0, atol=0.02)


def encoder_of(base: Base, rows: Examples) -> TextEncoder:
    numbers: list[Row] = [{"at": at} for at in range(len(rows))]
    lesson = Lesson(numbers, numbers, rows.targets, rows.targets, ABC)
    return TextEncoder(base, lesson, lambda some: [rows.ids[int(str(row["at"]))] for row in some], TrainingOptions())


@pytest.mark.slow
@pytest.mark.parametrize("method", NAMED)
@pytest.mark.parametrize("optimiser", list(Optimiser))
def test_a_run_goes_on_bit_by_bit_where_it_was_kept(tiny: Base, method: Method, optimiser: Optimiser) -> None:
    recipe = Recipe(rank=4, epochs=1, batch_size=8, rate=1.0, seed=0, layers=1, optimiser=optimiser)
    batch = batch_of(examples(), torch.arange(24))

    def run() -> Run:
        return Run(Classifier(tiny, head(), METHODS[method], recipe), recipe, ABC, steps=6)

    torch.manual_seed(2)
    whole = run()
    for at in range(3):
        whole.step(batch, at)
    kept: dict[str, Tensor] = load(save({**whole.model.learned(), **optimiser_tensors(whole.optimiser)}))
    resumed = run()
    resumed.model.restore({name: t for name, t in kept.items() if not name.startswith("optimiser.")})
    restore_optimiser(resumed.optimiser, kept)
    for at in range(3, 6):
        assert whole.step(batch, at) == resumed.step(batch, at)
    ends = whole.model.learned(), resumed.model.learned()
    assert all(one.equal(ends[1][name]) for name, one in ends[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("method", NAMED)
@pytest.mark.parametrize("half", [False, True])
def test_no_method_keeps_more_of_a_token_than_is_told(
    tiny: Base, monkeypatch: pytest.MonkeyPatch, method: Method, half: bool
) -> None:
    precision = torch.autocast(device().type, dtype=torch.bfloat16, enabled=half)
    monkeypatch.setattr("inference.engine.adapting.classifier.autocast", lambda: precision)
    model = Classifier(tiny, head(), METHODS[method], RECIPE)
    few, many = (kept_of(model, 8, tokens) for tokens in (16, 32))
    masks = 0 if half else 8 * (32**2 - 16**2) * 4 * 2
    shape = work_of(encoder_of(tiny, examples()), method, RECIPE, 0, 8)
    told = trained_token(shape.encoder, shape.rank, half=half, scaled=shape.scaled)
    assert (many - few - masks) / (8 * 16) <= 1.06 * told  # where all learns the embeddings' norm is a seventh one


def kept_of(model: Classifier, rows: int, tokens: int) -> int:
    """Bytes that autograd keeps for a batch's way back, each storage once, weights left out."""
    kept: dict[int, int] = {}
    weights = {part.untyped_storage().data_ptr() for part in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = batch_of(Examples([[5] * tokens] * rows, torch.zeros(rows, dtype=torch.long)), torch.arange(rows))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.eval()(batch).sum()
    del loss
    return sum(size for place, size in kept.items() if place not in weights)


def renamed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    tensors = load(files[WEIGHTS])
    return {**files, WEIGHTS: save({f"other.{name}": tensor for name, tensor in tensors.items()})}


def cut(files: Mapping[str, bytes]) -> dict[str, bytes]:
    tensors = load(files[WEIGHTS])
    return {**files, WEIGHTS: save({name: tensor[:1].clone() for name, tensor in tensors.items()})}


@pytest.mark.parametrize("but", [renamed, cut])
def test_weights_of_another_base_are_refused(
    tiny: Base, but: Callable[[Mapping[str, bytes]], dict[str, bytes]]
) -> None:
    model, _ = learned(tiny, Method.LAST_LAYERS)
    files = METHODS[Method.LAST_LAYERS].files(of_encoder(model.learned()), tiny, RECIPE) | head_file(head())
    with pytest.raises(FolderRefused, match="the base tiny has"):
        whole_encoder(Method.LAST_LAYERS, but(files), lambda: tiny, lambda _: lambda _: [])


def test_targets_are_layers_of_the_encoder(tiny: Base) -> None:
    counts = {targets: len(adapted(tiny.model, targets)) for targets in Targets}
    assert counts == {Targets.ALL: 12, Targets.ATTENTION: 8, Targets.QUERY_VALUE: 4}


def test_dear_methods_are_climbed_when_they_are_named_and_not_before() -> None:
    assert TrainingOptions().top is Rung.LORA
    assert TrainingOptions(method=Method.FULL).top is Rung.FULL
    assert TrainingOptions(highest_rung=Rung.FULL).top is Rung.FULL
    assert {each: each.rung for each in Method}[Method.BITFIT] is Rung.LORA
    assert {METHODS[each].served_by for each in NAMED if each is not Method.LORA} == {ServedBy.WHOLE}


def test_rare_labels_weigh_as_much_as_the_others() -> None:
    targets = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2, -1])
    objective = ABC.learned_by(None, targets)
    known = targets[targets >= 0]
    rows = objective.loss(torch.zeros(len(known), 3), known)
    shares = [rows[known == label].sum().item() for label in range(3)]
    assert shares == pytest.approx([shares[0]] * 3)
    assert rows.mean().item() == pytest.approx(ABC.loss(torch.zeros(len(known), 3), known).mean().item())
    assert "weighed the same" in objective.note
    assert "weighed the same" not in ABC.note


def test_the_focal_loss_is_the_papers() -> None:
    logits, targets = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
    sure = torch.softmax(logits, 1)[0, 0]
    found = ABC.learned_by(Loss.FOCAL, None).loss(logits, targets)
    assert found.item() == pytest.approx(float((1 - sure) ** 2 * -sure.log()))


def test_half_the_squared_error_is_hubers_within_a_deviation() -> None:
    number = Number(mean=10.0, deviation=2.0)
    outputs, targets = torch.tensor([[0.3], [0.1]]), torch.tensor([10.0, 11.0], dtype=torch.double)
    squared = number.learned_by(Loss.MSE, None).loss(outputs, targets)
    torch.testing.assert_close(squared, number.loss(outputs, targets))


def test_a_loss_that_does_not_suit_the_target_is_refused_with_those_that_do() -> None:
    number = Number(mean=0.0, deviation=1.0)
    with pytest.raises(JobFault, match="focal does not suit this target; huber, mse do"):
        number.learned_by(Loss.FOCAL, None)
    with pytest.raises(JobFault, match="the target of this job is a number"):
        number.learned_by(None, torch.zeros(3))
    with pytest.raises(JobFault, match="huber does not suit this target; cross_entropy, focal do"):
        ABC.learned_by(Loss.HUBER, None)


def test_what_is_named_in_the_contract_is_told_in_the_report() -> None:
    facts: dict[Method, dict[str, Any]] = {method: RECIPE.facts(method) for method in learning.Method}
    assert facts[Method.LORA]["rank"] == 4
    assert "rank" not in facts[Method.FULL]
    assert facts[Method.LAST_LAYERS]["layers"] == 1
