"""Train a face inpainter: `uv run train.py`, any setting as an override, `--help` for the list."""

from diffusion_lab.commands.train import main

if __name__ == "__main__":
    main()
