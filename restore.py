"""Restore one picture by what a model was trained for: `uv run restore.py image=old.jpg`; mask= if it fills holes."""

from diffusion_lab.commands.restore import main

if __name__ == "__main__":
    main()
