"""Search for settings by Optuna: `uv run sweep.py FOLDER --minimize val/lpips 'optimizer.lr=interval(1e-4,1e-2)'`."""

import sys

from diffusion_lab.commands.sweep import main

if __name__ == "__main__":
    sys.exit(main())
