"""Restore one picture by what a model was trained for: `uv run restore.py image=old.jpg`; mask= if it fills holes."""

from omegaconf import DictConfig

from diffusion_lab.cli import command


@command(
    "restore",
    paths=["image", "mask", "output", "film", "inpainter", "credentials.chain", "credentials.key", "paths.logs"],
    rename={"mask": "hole"},
)
def main(cfg: DictConfig) -> None:
    from diffusion_lab.restoring import run  # late: help does not wait for torch

    run(cfg)


if __name__ == "__main__":
    main()
