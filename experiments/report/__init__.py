"""Comparisons of runs: statistics, figures, the report."""
