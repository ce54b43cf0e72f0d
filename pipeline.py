"""Train, evaluate, ask the gate, register, promote: `uv run pipeline.py`; `resume=auto` goes on where it was cut."""

from diffusion_lab.commands.pipeline import main

if __name__ == "__main__":
    main()
