"""Verticals and base models on offer, and which tenant has which."""
