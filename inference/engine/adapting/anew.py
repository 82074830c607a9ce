"""A run whose length another has settled: it learns from all rows, with none to be judged by."""

from collections.abc import Mapping
from itertools import chain, islice

import torch
from tilth.contract.learning import Method
from torch import Tensor

from inference.engine.adapting.classifier import Classifier
from inference.engine.adapting.methods import METHODS
from inference.engine.adapting.recipe import Recipe
from inference.engine.adapting.steps import Run
from inference.engine.batches import batch_of, epoch_order
from inference.engine.candidate import Session
from inference.engine.encoder import TextEncoder
from inference.engine.errors import diverged
from inference.engine.heads import Head


def learned_anew(
    encoder: TextEncoder, method: Method, recipe: Recipe, head: Head, *, share: float, rows_at_once: int,
    session: Session,
) -> Mapping[str, Tensor]:  # fmt: skip
    """What a classifier learns from a head on the encoder's training rows in such a share of the recipe's steps."""
    train, reporter, first = encoder.train, session.reporter, session.keeper.step
    torch.manual_seed(recipe.seed)
    model = Classifier(encoder.base, head, METHODS[method], recipe)
    epochs = [epoch_order(train, recipe.batch_size, seed=recipe.seed, epoch=at) for at in range(recipe.epochs)]
    steps = sum(map(len, epochs))
    run = Run(model, recipe, encoder.lesson.objective, steps=steps, rows_at_once=rows_at_once)
    last = round(share * steps)
    for number, rows in enumerate(islice(chain.from_iterable(epochs), last)):
        reporter.check(first)
        loss = run.step(batch_of(train, rows), number)
        if not loss < float("inf"):
            raise diverged(f"the loss became {loss} at step {number}")
        reporter.work(3.0 * recipe.views * len(rows))
        reporter.step(
            rung=f"{method.value} again", step=first + number + 1, total_steps=first + last, loss=loss,
            rate=run.optimiser.param_groups[0]["lr"], force=number == 0,
        )  # fmt: skip
    return model.learned()
