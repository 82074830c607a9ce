"""Fine-tuning jobs: states, leases, attempts, events, checkpoints, the fair dispatcher."""
