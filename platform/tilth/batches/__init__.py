"""Batches: many predictions as one job, answered behind those that somebody waits for."""
