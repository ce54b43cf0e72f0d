"""What `benchmarks/chaos.py` kills, how it kills it, and the oracle that looks at what is left."""
