"""The port to the data plane, its HTTP client and its in-process fake."""
