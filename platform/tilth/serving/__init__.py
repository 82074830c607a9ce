"""Deployments: which model answers under which name."""
