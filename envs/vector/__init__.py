"""Use vector environments of other libraries as SB3 vector environments."""
