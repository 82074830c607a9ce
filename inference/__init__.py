"""Tilth's data plane: a Ray cluster of actors that learn and serve; it knows tensors, no tenants and no database."""
