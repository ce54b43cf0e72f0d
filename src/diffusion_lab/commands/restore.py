"""Restore one picture by what a model was trained for: `uv run restore.py image=old.jpg`; mask= if it fills holes."""

from omegaconf import DictConfig

from diffusion_lab.cli import command
from diffusion_lab.scripts import PICTURE_PATHS, picture_restored


@command("restore", paths=PICTURE_PATHS, rename={"mask": "hole"})
def main(cfg: DictConfig) -> None:
    picture_restored(cfg)


if __name__ == "__main__":
    main()
