"""Small tasks, most with known solutions in closed form."""
