"""Schema changes of this app, in order; each is reversible."""
