"""Ways to adapt an encoder, by name: what learns in it, by which optimiser, step by step, the best epoch kept."""
