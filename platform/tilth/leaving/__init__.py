"""An organisation leaves: it takes its data along, and nothing that can be read stays."""
