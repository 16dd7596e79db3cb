"""Settings of every algorithm by task; installed as `experiments.configs`."""
