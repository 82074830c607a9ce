"""The supervisor of ``make up`` and ``make demo``: PostgreSQL, Ray, web and worker on one machine."""
