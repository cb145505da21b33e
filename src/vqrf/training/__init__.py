"""Photos to a field: the only optimisation loop, and what it optimises."""
