"""Meter events, device spans, holds and the ledger: append-only."""
