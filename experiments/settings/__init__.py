"""The settings of a run: read from the command line, stored in config.yaml, and restored."""
