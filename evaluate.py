"""Score a model against its task's baselines: `uv run evaluate.py`; `conf/evaluate.yaml` says what can be set."""

from diffusion_lab.commands.evaluate import main

if __name__ == "__main__":
    main()
