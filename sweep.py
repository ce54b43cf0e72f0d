"""Search for settings of train.py by Optuna: `uv run sweep.py STUDY --minimize val/lpips optimizer.lr=interval(...)`."""

import sys
from pathlib import Path

from diffusion_lab.search import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
