"""Bits per dimension of an inpainter: `uv run likelihood.py`; see `conf/likelihood.yaml` for what can be set."""

from diffusion_lab.commands.likelihood import main

if __name__ == "__main__":
    main()
