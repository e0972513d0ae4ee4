"""Pyperf benchmarks, a room each; `suite.py` is what they share, `worker.py` runs one of them."""
