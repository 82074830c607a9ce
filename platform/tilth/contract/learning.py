"""What a customer may choose of learning, by the names under which the engine has it."""

from enum import StrEnum

from tilth.contract.vertical import FieldKind


class Rung(StrEnum):
    """The rungs of the ladder, cheapest first."""

    BASELINE = "baseline"
    PROBE = "probe"
    LORA = "lora"
    FULL = "full"


class Method(StrEnum):
    """What learns in an encoder."""

    PROBE = "probe"
    """Nothing: a linear head on what the frozen encoder says."""
    LORA = "lora"
    """A low-rank update of its linear layers (Hu et al. 2021)."""
    DORA = "dora"
    """The same of their direction, and their magnitude (Liu et al. 2024)."""
    IA3 = "ia3"
    """One factor for each key, value and inner activation (Liu et al. 2022)."""
    BITFIT = "bitfit"
    """The biases (Ben Zaken et al. 2022)."""
    LAST_LAYERS = "last_layers"
    """The last layers."""
    FULL = "full"
    """Everything."""

    @property
    def rung(self) -> Rung:
        """How dear it is."""
        match self:
            case Method.PROBE:
                return Rung.PROBE
            case Method.LAST_LAYERS | Method.FULL:
                return Rung.FULL
        return Rung.LORA


class Optimiser(StrEnum):
    """What takes the steps."""

    ADAMW = "adamw"
    SGD = "sgd"
    """With Nesterov's momentum."""
    ADAFACTOR = "adafactor"


class Targets(StrEnum):
    """Which linear layers a low-rank method adapts."""

    ALL = "all"
    ATTENTION = "attention"
    """Those of attention, its output's too."""
    QUERY_VALUE = "query_value"


class Loss(StrEnum):
    """What a step makes smaller."""

    CROSS_ENTROPY = "cross_entropy"
    FOCAL = "focal"
    """Cross-entropy with little weight on what is sure already (Lin et al. 2017, γ = 2)."""
    HUBER = "huber"
    MSE = "mse"


LOSSES: dict[FieldKind, tuple[Loss, ...]] = {
    FieldKind.LABEL: (Loss.CROSS_ENTROPY, Loss.FOCAL),
    FieldKind.LABELS: (Loss.CROSS_ENTROPY, Loss.FOCAL),
    FieldKind.NUMBER: (Loss.HUBER, Loss.MSE),
}
"""Those of a kind of target; the first is taken where none is named."""
