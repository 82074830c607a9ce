"""Whole small models, many in one process: what shares no base with others."""
