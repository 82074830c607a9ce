"""Fine-tuned models: lineage, metrics, digest, model card."""
