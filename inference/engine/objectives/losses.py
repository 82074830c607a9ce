"""Losses by name, one value per row: of class numbers, of numbers; or, of sets, per row and label."""

from collections.abc import Callable, Mapping

import torch
from tilth.contract.learning import Loss
from torch import Tensor
from torch.nn import functional

from inference.engine.errors import JobFault

FOCUS = 2.0
"""γ of the focal loss."""


def cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """In nats; ``smoothing`` of the target goes to all labels alike (Szegedy 2016)."""
    return functional.cross_entropy(outputs, targets, label_smoothing=smoothing, reduction="none")


def focal(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy times (1 - p)^γ, p being what the target's label is given (Lin et al. 2017, section 3)."""
    sure = outputs.softmax(1).gather(1, targets[:, None])[:, 0]
    return (1 - sure) ** FOCUS * cross_entropy(outputs, targets, smoothing)


def huber(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Squared up to one deviation, then linear, so that an outlier moves little (Huber 1964)."""
    return functional.huber_loss(outputs, targets, reduction="none")


def squared(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Half the squared error, as Huber's near zero."""
    return (outputs - targets).square() / 2


def binary_cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Of log-odds and targets of 1 or 0 [rows, labels], both moved towards one half by half of ``smoothing``."""
    wanted = targets * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")


def binary_focal(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """The same times (1 - p)^γ, p being what is given to the answer that is right."""
    sure = torch.where(targets == 1, outputs, -outputs).sigmoid()
    return (1 - sure) ** FOCUS * binary_cross_entropy(outputs, targets, smoothing)


LABEL: dict[Loss, Callable[[Tensor, Tensor, float], Tensor]] = {Loss.CROSS_ENTROPY: cross_entropy, Loss.FOCAL: focal}
MANY: dict[Loss, Callable[[Tensor, Tensor, float], Tensor]] = {
    Loss.CROSS_ENTROPY: binary_cross_entropy,
    Loss.FOCAL: binary_focal,
}
NUMBER: dict[Loss, Callable[[Tensor, Tensor, float], Tensor]] = {Loss.HUBER: huber, Loss.MSE: squared}


def balanced(targets: Tensor, classes: int) -> tuple[float, ...]:
    """A weight for each class by which all count alike and the rows' mean weight is one; unknown rows count not."""
    counts = torch.bincount(targets[targets >= 0], minlength=classes).double()
    weights = counts.sum() / (classes * counts.clamp(min=1))
    return tuple(weights.tolist())


def suited(loss: Loss, losses: Mapping[Loss, object]) -> Loss:
    """The loss, if it is one of those; raises JobFault."""
    if loss not in losses:
        raise JobFault("loss_unsuited", f"{loss.value} does not suit this target; {', '.join(losses)} do")
    return loss
