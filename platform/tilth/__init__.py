"""Tilth's control plane: a Django project whose apps hold tenants, datasets, jobs, models and money."""
