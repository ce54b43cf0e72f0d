"""Search for settings by Optuna: ``uv run sweep.py FOLDER --minimize val/lpips 'optimizer.lr=interval(1e-4,1e-2)'``."""

import sys
from pathlib import Path

from diffusion_lab.search import main as search


def main() -> int:
    """Runs the command; returns the exit status."""
    return search(Path(__file__).parent)


if __name__ == "__main__":
    sys.exit(main())
