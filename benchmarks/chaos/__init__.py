"""What `benchmarks/chaos.py` kills, how it kills it, and the oracle that looks at what is left."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))  # the smallest models, and sweeps that are quick
