"""Save and restore the full state of environments."""
