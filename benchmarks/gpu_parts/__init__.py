"""The parts of `benchmarks/gpu.py`; each has a function that fills a `Part`."""
