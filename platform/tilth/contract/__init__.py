"""What both planes share: frozen messages, the face of a vertical, and nothing else."""
