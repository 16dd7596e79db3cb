"""Send a run's log to a tracker: Weights & Biases, MLflow, Trackio, or a writer of the user's own."""
