"""Reads a customer's request for a job, in OpenAI's words and ours, into an Order."""

from typing import Any

from rest_framework import serializers

from tilth.catalog.selectors import vertical_for
from tilth.contract import learning
from tilth.contract.learning import LOSSES, Loss, Optimiser, Rung, Targets
from tilth.contract.messages import TrainingOptions
from tilth.contract.vertical import FieldKind, Vertical
from tilth.core.errors import Invalid
from tilth.core.ids import parse
from tilth.core.serializers import MetadataField, Strict
from tilth.datasets.checks import target_of
from tilth.datasets.fields import KindsField, SplitField
from tilth.training.services import Order

AUTO = "auto"


class NumberOrAuto(serializers.Field[Any, Any, Any, Any]):
    """A number, or ``"auto"`` which leaves it to the engine (None)."""

    def __init__(self, kind: type[int] | type[float], low: float, high: float, **kwargs: Any) -> None:
        super().__init__(required=False, allow_null=True, **kwargs)
        self.kind, self.low, self.high = kind, low, high

    def to_internal_value(self, data: Any) -> Any:
        """None for auto."""
        if data == AUTO:
            return None
        whole = isinstance(data, int) or (isinstance(data, float) and data.is_integer())
        number = isinstance(data, int | float) and not isinstance(data, bool) and (self.kind is float or whole)
        if not number or not self.low <= data <= self.high:
            what = "a whole number" if self.kind is int else "a number"
            raise serializers.ValidationError(
                f'Must be "auto" or {what} from {self.low} to {self.high}; found {data!r}.'
            )
        return self.kind(data)

    def to_representation(self, value: Any) -> Any:
        """As sent."""
        return AUTO if value is None else value


class Hyperparameters(Strict):
    """OpenAI's three."""

    n_epochs = NumberOrAuto(int, 1, 100)
    batch_size = NumberOrAuto(int, 1, 1024)
    learning_rate_multiplier = NumberOrAuto(float, 1e-6, 100)


class Method(Strict):
    """``{"type": "supervised", "supervised": {"hyperparameters": …}}``."""

    class Supervised(Strict):
        hyperparameters = Hyperparameters(required=False, allow_null=True)

    type = serializers.ChoiceField(
        ["supervised"],
        error_messages={"invalid_choice": "Only the method 'supervised' is on offer; found {input!r}."},
    )
    supervised = Supervised(required=False, allow_null=True)


class Options(Strict):
    """Our own, sent through the SDK's ``extra_body``."""

    epochs = NumberOrAuto(int, 1, 100)
    batch_size = NumberOrAuto(int, 1, 1024)
    learning_rate_multiplier = NumberOrAuto(float, 1e-6, 100)
    rank = NumberOrAuto(int, 1, 16)
    highest_rung = serializers.ChoiceField([rung.value for rung in Rung], required=False)
    method = serializers.ChoiceField([method.value for method in learning.Method], required=False)
    optimiser = serializers.ChoiceField([optimiser.value for optimiser in Optimiser], required=False)
    loss = serializers.ChoiceField([loss.value for loss in Loss], required=False)
    class_weights = serializers.BooleanField(required=False)
    label_smoothing = serializers.FloatField(min_value=0, max_value=0.5, required=False)
    consistency = serializers.FloatField(min_value=0, max_value=10, required=False)
    targets = serializers.ChoiceField([targets.value for targets in Targets], required=False)
    layers = serializers.IntegerField(min_value=1, max_value=100, required=False)
    trials = serializers.IntegerField(min_value=2, max_value=64, required=False)
    base_models = serializers.ListField(child=serializers.CharField(max_length=120), max_length=8, required=False)
    minimum_gain = serializers.FloatField(min_value=0, max_value=1, required=False)
    seed = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False)
    accept_bad_rows = serializers.BooleanField(default=False)
    test_file = serializers.CharField(max_length=64, required=False, allow_null=True)


class JobIn(Strict):
    """``fine_tuning.jobs.create``."""

    model = serializers.CharField(max_length=240)
    training_file = serializers.CharField(max_length=64)
    validation_file = serializers.CharField(max_length=64, required=False, allow_null=True)
    suffix = serializers.RegexField(
        r"^[A-Za-z0-9._-]*$", max_length=64, required=False, allow_null=True, allow_blank=True
    )
    seed = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False, allow_null=True)
    method = Method(required=False, allow_null=True)
    hyperparameters = Hyperparameters(required=False, allow_null=True)
    metadata = MetadataField()
    integrations = serializers.ListField(required=False, allow_null=True)
    vertical = serializers.CharField(max_length=60, required=False, allow_null=True)
    columns = serializers.DictField(child=serializers.CharField(max_length=200), required=False, allow_null=True)
    kinds = KindsField(required=False)
    split = SplitField(required=False)
    options = Options(required=False, allow_null=True)

    def validate_integrations(self, value: list[Any] | None) -> None:
        """None are on offer."""
        if value:
            raise serializers.ValidationError("No integrations are on offer; leave this out.")


def order_of(body: dict[str, Any]) -> Order:
    """The order in a checked body; raises NotFound for an unknown model, Invalid where the parts contradict."""
    own = body.get("options") or {}
    face = vertical_for(model=body["model"], named=body.get("vertical"))
    asked = _hyperparameters(body)
    _refuse_unsuited(own, face)
    _refuse_unoffered(own, face)
    return Order(
        vertical=face.name,
        base_model=body["model"],
        training_file=parse("file", body["training_file"]),
        validation_file=_file(body.get("validation_file")),
        test_file=_file(own.get("test_file")),
        columns=body.get("columns"),
        kinds=body.get("kinds"),
        split=body.get("split"),
        accept_bad_rows=own.get("accept_bad_rows", False),
        suffix=body.get("suffix") or "",
        options=_options(own, asked, _seed(body, own)),
        asked={"hyperparameters": asked, "method": "method" in body and body["method"] is not None},
        metadata=body.get("metadata") or {},
    )


def _refuse_unsuited(own: dict[str, Any], face: Vertical) -> None:
    """Raises Invalid for a loss that the vertical's target cannot be learned by, before anything is paid."""
    target = target_of(face.schema_)
    if target is None:
        return
    suited = LOSSES.get(target.kind, ())
    if (loss := own.get("loss")) and loss not in suited:
        raise Invalid(
            f"The target {target.role!r} of {face.name} is a {target.kind.value}; it is learned by"
            f" {' or '.join(suited)}, not by {loss}.",
            code="loss_unsuited", param="options.loss",
        )  # fmt: skip
    if own.get("class_weights") and target.kind is FieldKind.NUMBER:
        raise Invalid(
            f"`class_weights` balance labels; the target {target.role!r} of {face.name} is a number.",
            code="loss_unsuited", param="options.class_weights",
        )  # fmt: skip


def _refuse_unoffered(own: dict[str, Any], face: Vertical) -> None:
    """Raises Invalid for base models to search over that the vertical does not offer, or that no search would try."""
    asked, offered = own.get("base_models") or [], [offer.id for offer in face.base_models]
    if unknown := [name for name in asked if name not in offered]:
        raise Invalid(
            f"{face.name} has no base model {unknown[0]!r} on offer; it offers {', '.join(offered)}.",
            code="model_not_found", param="options.base_models",
        )  # fmt: skip
    if asked and not own.get("trials"):
        raise Invalid(
            "`base_models` are tried by a search; say in `options.trials` how many configurations it may try.",
            param="options.base_models",
        )


def _file(text: str | None) -> Any:
    return parse("file", text) if text else None


def _hyperparameters(body: dict[str, Any]) -> dict[str, Any]:
    """Those of ``method`` win over the deprecated ones at the top."""
    method = ((body.get("method") or {}).get("supervised") or {}).get("hyperparameters") or {}
    return {**(body.get("hyperparameters") or {}), **method}


def _seed(body: dict[str, Any], own: dict[str, Any]) -> int:
    seeds = {seed for seed in (body.get("seed"), own.get("seed")) if seed is not None}
    if len(seeds) > 1:
        raise Invalid(f"`seed` is {body['seed']} and `options.seed` is {own['seed']}; say it once.", param="seed")
    return int(seeds.pop()) if seeds else 0


def _options(own: dict[str, Any], asked: dict[str, Any], seed: int) -> TrainingOptions:
    known = {name: own[name] for name in TrainingOptions.model_fields if own.get(name) is not None}
    theirs = {
        "epochs": asked.get("n_epochs"),
        **{name: asked.get(name) for name in ("batch_size", "learning_rate_multiplier")},
    }
    return TrainingOptions(
        **{**{name: value for name, value in theirs.items() if value is not None}, **known, "seed": seed}
    )
