"""Search for settings, by Optuna."""
