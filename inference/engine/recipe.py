"""The numbers of a run that learns by steps."""

from dataclasses import dataclass

from tilth.contract.messages import TrainingOptions

RANK = 16
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Recipe:
    """With everything "auto" settled."""

    rank: int
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int

    @classmethod
    def settled(cls, options: TrainingOptions, rows: int) -> "Recipe":
        """The customer's numbers where given; small batches for few rows, few epochs down a cosine to zero."""
        return cls(
            rank=options.rank or RANK,
            epochs=options.epochs or (3 if rows < 2000 else 5),
            batch_size=options.batch_size or (16 if rows < 1000 else 32),
            learning_rate=LEARNING_RATE * (options.learning_rate_multiplier or 1.0),
            seed=options.seed,
        )
