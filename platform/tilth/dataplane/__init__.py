"""The only place that knows the data plane: the port, its HTTP client, its in-process fake."""
