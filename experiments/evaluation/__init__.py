"""Play seeded episodes with a trained agent."""
