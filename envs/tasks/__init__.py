"""Four small tasks with known solutions in closed form."""
