"""The settings of a run, from the command line to config.yaml and back."""
