"""Everything between a command and an agent: runs, grids, searches, evaluation, reports."""
