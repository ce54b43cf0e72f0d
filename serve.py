"""Serve an inpainter: `uv run serve.py` opens a page and an API; see `conf/serve.yaml` for what can be set."""

from diffusion_lab.commands.serve import main

if __name__ == "__main__":
    main()
