"""Restore one picture by what a model was trained for: `uv run restore.py image=old.jpg`; mask= if it fills holes."""

from omegaconf import DictConfig

from diffusion_lab.cli import PICTURE_PATHS, command, picture_restored


@command("restore", paths=PICTURE_PATHS, rename={"mask": "hole"})
def main(cfg: DictConfig) -> None:
    picture_restored(cfg)


if __name__ == "__main__":
    main()
