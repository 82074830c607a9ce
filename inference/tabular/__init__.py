"""Tables: how columns become numbers, and the candidates that learn from them without a base model."""
