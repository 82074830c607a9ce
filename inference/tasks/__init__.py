"""How one kind of problem is learned; a vertical names one of these."""
