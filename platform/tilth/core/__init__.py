"""What every app of the control plane stands on: scope, row-level security, errors, HTTP, money, clock."""
