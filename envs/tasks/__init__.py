"""Four small tasks whose answers are known in closed form."""
