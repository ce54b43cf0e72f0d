"""What `benchmarks/soak.py` asks a service for, what must hold of the answers, and how a trend is told from noise."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests"
sys.path += [str(TESTS), str(TESTS / "serving")]  # the smallest models, faces, and uploads that are broken
