"""Adapters: their files, stacked LoRA layers, the pool of slots."""
