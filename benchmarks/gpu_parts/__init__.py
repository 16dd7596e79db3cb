"""The parts of `benchmarks/gpu.py`, one function each that fills a `Part`."""
