"""The numbers of a run that learns by steps."""

from dataclasses import dataclass

from tilth.contract.learning import Method, Optimiser, Targets
from tilth.contract.messages import TrainingOptions

from inference.engine.adapting.views import TWO

RANK = 16
LABEL_SMOOTHING = 0.1
CONSISTENCY = 3.0


@dataclass(frozen=True)
class Recipe:
    """With everything "auto" settled."""

    rank: int
    epochs: int
    batch_size: int
    rate: float
    """Multiplies the learning rate that the method and the optimiser are at home with."""
    seed: int
    optimiser: Optimiser = Optimiser.ADAMW
    smoothing: float = LABEL_SMOOTHING
    targets: Targets = Targets.ALL
    """Linear layers that low-rank methods adapt."""
    consistency: float = 0.0
    """How much two views of a row count that answer differently; 0: each row is seen once, as it is."""
    layers: int = 2
    """Of the encoder's last ones, where only these learn."""

    @property
    def views(self) -> int:
        """Of each row, in a step."""
        return TWO if self.consistency else 1

    @classmethod
    def settled(cls, options: TrainingOptions, rows: int) -> "Recipe":
        """The customer's numbers where given; small batches for few rows, few epochs down a cosine to zero."""
        return cls(
            rank=options.rank or RANK,
            epochs=options.epochs or (3 if rows < 2000 else 5),
            batch_size=options.batch_size or (16 if rows < 1000 else 32),
            rate=options.learning_rate_multiplier or 1.0,
            seed=options.seed,
            optimiser=options.optimiser,
            smoothing=LABEL_SMOOTHING if options.label_smoothing is None else options.label_smoothing,
            targets=options.targets,
            consistency=CONSISTENCY if options.consistency is None else options.consistency,
            layers=options.layers,
        )

    def facts(self, method: Method) -> dict[str, int | float | str]:
        """What of it mattered to that method, for the report."""
        found: dict[str, int | float | str] = {"method": method.value, "rate": self.rate, "batch_size": self.batch_size}
        found["consistency"] = self.consistency
        if method in (Method.LORA, Method.DORA):
            found |= {"rank": self.rank, "targets": self.targets.value}
        if method is Method.LAST_LAYERS:
            found["layers"] = self.layers
        return found
