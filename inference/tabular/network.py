"""A small network of a table: embeddings of categories beside standardised numbers, two hidden layers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from safetensors.torch import load, save
from torch import Tensor, nn

from inference.engine.candidate import Session
from inference.engine.crossing import crossed
from inference.engine.objectives.objective import Objective
from inference.engine.search.sampler import Params
from inference.tabular.columns import Cells, Columns
from inference.tabular.learner import Fitted
from inference.tabular.table import TableLesson

EPOCHS, PATIENCE, BATCH = 60, 8, 64
FILE = "network.safetensors"


@dataclass(frozen=True)
class Shape:
    """A network and how it learns."""

    hidden: int = 64
    dropout: float = 0.3
    """Share of each hidden layer that a step leaves out."""
    learning_rate: float = 3e-3
    """AdamW's."""
    weight_decay: float = 0.05
    """AdamW's."""


class Network(nn.Module):
    """Outputs [rows, width] of the dense columns: a product with a one-hot vector is an embedding."""

    def __init__(self, inputs: int, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )  # fmt: skip

    def forward(self, dense: Tensor) -> Tensor:
        """Of [rows, inputs]."""
        found: Tensor = self.layers(dense)
        return found


@dataclass(frozen=True)
class NetworkModel:
    """The mean of the members' outputs."""

    columns: Columns
    members: list[Network]

    @torch.inference_mode()
    def of(self, cells: Sequence[Cells]) -> Tensor:
        """[rows, width]."""
        dense = self.columns.dense(cells)
        return torch.stack([member.eval()(dense) for member in self.members]).mean(0)

    def files(self) -> dict[str, bytes]:
        """All weights, numbered by member."""
        tensors = {f"{at}.{name}": t for at, each in enumerate(self.members) for name, t in each.state_dict().items()}
        return {FILE: save(tensors)}


@dataclass(frozen=True)
class Networks:
    """The learner: one network for each fold, stopped early by a tenth of its own rows."""

    name: str = "network"
    title: str = "the network"
    shape: Shape = Shape()

    @property
    def varied(self) -> Mapping[str, BaseDistribution]:
        """Its width, and what keeps it from learning by heart."""
        return {
            "hidden": CategoricalDistribution([32, 64, 128]), "dropout": FloatDistribution(0.0, 0.6),
            "learning_rate": FloatDistribution(1e-3, 1e-2, log=True),
            "weight_decay": FloatDistribution(1e-3, 0.5, log=True),
        }  # fmt: skip

    @property
    def usual(self) -> tuple[Params, ...]:
        """One shape."""
        return (asdict(self.shape),)

    def having(self, params: Params) -> "Networks":
        """Of another shape."""
        return replace(self, shape=Shape(**params))

    def suits(self, objective: Objective) -> bool:
        """Anything."""
        return True

    def fit(self, table: TableLesson, session: Session) -> Fitted:
        """Members of the folds."""
        dense, targets, objective = table.dense, table.targets, table.objective

        def fit(rows: Tensor, _: Tensor) -> Network:
            session.reporter.check(session.keeper.step)
            return _trained(dense[rows], targets[rows], objective, table.lesson.seed, self.shape)

        members, outputs = crossed(
            table.folds, table.objective.width, fit, lambda member, rows: _outputs(member, dense[rows])
        )
        return Fitted(NetworkModel(table.columns, members), outputs, asdict(self.shape))

    def reopen(self, columns: Columns, width: int, files: Mapping[str, bytes]) -> NetworkModel:
        """From the weights."""
        tensors = load(files[FILE])
        members = []
        for at in sorted({int(name.partition(".")[0]) for name in tensors}):
            own = {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith(f"{at}.")}
            hidden, inputs = own["layers.0.weight"].shape
            members.append(Network(inputs, width, hidden))
            members[-1].load_state_dict(own)
        return NetworkModel(columns, members)


def _trained(dense: Tensor, targets: Tensor, objective: Objective, seed: int, shape: Shape) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(dense.shape[1], objective.width, shape.hidden, shape.dropout)
        order = torch.randperm(len(dense))
        stops, learns = order[: max(1, len(order) // 10)], order[max(1, len(order) // 10) :]
        optimiser = torch.optim.AdamW(network.parameters(), lr=shape.learning_rate, weight_decay=shape.weight_decay)
        best, kept, since = float("inf"), network.state_dict(), 0
        for _ in range(EPOCHS):
            _epoch(network, optimiser, dense[learns], targets[learns], objective)
            loss = float(objective.loss(_outputs(network, dense[stops]), targets[stops]).mean())
            if loss < best:
                best, since = loss, 0
                kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            elif (since := since + 1) > PATIENCE:
                break
        network.load_state_dict(kept)
        return network


def _epoch(
    network: Network, optimiser: torch.optim.Optimizer, dense: Tensor, targets: Tensor, objective: Objective
) -> None:
    network.train()
    for rows in torch.split(torch.randperm(len(dense)), BATCH):
        optimiser.zero_grad()
        objective.loss(network(dense[rows]), targets[rows]).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()


@torch.no_grad()
def _outputs(network: Network, dense: Tensor) -> Tensor:
    found: Tensor = network.eval()(dense)
    return found
