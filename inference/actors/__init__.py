"""Ray's actors: the trainer (one job) and the host (one base, many adapters)."""
