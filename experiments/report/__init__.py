"""Compare runs: statistics, figures and the report."""
