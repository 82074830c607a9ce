"""Prices, invoice lines and the invoice preview."""
