"""A blend: a weighted sum of the outputs of the models before it (stacking, Wolpert 1992), weights never negative."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from inference.engine.candidate import Session
from inference.engine.objectives.objective import Objective
from inference.tabular.columns import Cells, Columns
from inference.tabular.learner import Fitted, Learned, Learner, TableModel
from inference.tabular.table import TableLesson

FILE = "blend.json"
PULL = 0.02
"""Of the penalty that draws all weights to their mean."""


@dataclass(frozen=True)
class BlendModel:
    """Members by name, and their weights."""

    members: dict[str, TableModel]
    weights: dict[str, float]

    def of(self, cells: Sequence[Cells]) -> Tensor:
        """[rows, width]."""
        parts = [self.weights[name] * model.of(cells).double() for name, model in self.members.items()]
        return torch.stack(parts).sum(0).float()

    def files(self) -> dict[str, bytes]:
        """Those of the members, under their names, and the weights."""
        own = {FILE: json.dumps(self.weights, indent=1).encode()}
        for name, model in self.members.items():
            own |= {f"{name}.{file}": content for file, content in model.files().items()}
        return own


@dataclass(frozen=True)
class Blend:
    """The learner; ``parts`` are those that may be blended."""

    parts: tuple[Learner, ...]
    name: str = "blend"
    title: str = "the blend"

    def suits(self, objective: Objective) -> bool:
        """Anything."""
        return True

    def fit(self, table: TableLesson, session: Session) -> Fitted:
        """Weights by the cross-fitted outputs of the parts that have learned."""
        session.reporter.check(session.keeper.step)
        members, outputs = dict[str, TableModel](), list[Tensor]()
        for part in self.parts:
            outcome = session.done.get(part.name)
            if outcome is not None and outcome.crossed is not None and isinstance(outcome.model, Learned):
                members[part.name] = outcome.model.model
                outputs.append(torch.cat([outcome.crossed, outcome.valid[table.lesson.known]]))
        stacked = torch.stack(outputs).double()
        weights = _weights(stacked, table)
        named = dict(zip(members, weights.tolist(), strict=True))
        crossed = (weights[:, None, None] * stacked).sum(0).float()
        return Fitted(BlendModel(members, named), crossed, {"weights": {k: round(v, 4) for k, v in named.items()}})

    def reopen(self, columns: Columns, width: int, files: Mapping[str, bytes]) -> BlendModel:
        """By the parts' own learners."""
        weights: dict[str, float] = json.loads(files[FILE])
        members = {
            part.name: part.reopen(columns, width, _own(part.name, files))
            for part in self.parts
            if part.name in weights
        }
        return BlendModel(members, weights)


def _own(name: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {file.removeprefix(f"{name}."): content for file, content in files.items() if file.startswith(f"{name}.")}


def _weights(outputs: Tensor, table: TableLesson) -> Tensor:
    """[parts] of outputs [parts, rows, width]: the least mean loss, by L-BFGS over the weights' softplus inverse."""
    even = 1 / len(outputs)
    free = torch.full((len(outputs),), float(torch.tensor(even).expm1().log()), dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([free], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        weights = functional.softplus(free)
        blended = (weights[:, None, None] * outputs).sum(0)
        apart = (weights - weights.mean()).square().sum()
        loss = table.objective.loss(blended, table.targets).mean() + PULL * apart
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return functional.softplus(free.detach())
