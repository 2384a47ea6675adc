"""What `benchmarks/bench.py` measures: a module each, whose `figures(smallest)` yields the figures of one run."""
