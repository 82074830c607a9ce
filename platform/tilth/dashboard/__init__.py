"""Customers' pages."""
