"""Fill the hole of one picture: `uv run inpaint.py image=me.jpg mask=hole.png`."""

from omegaconf import DictConfig

from diffusion_lab.cli import command
from diffusion_lab.scripts import PICTURE_PATHS, picture_restored


@command("inpaint", paths=PICTURE_PATHS, rename={"mask": "hole"})
def main(cfg: DictConfig) -> None:
    picture_restored(cfg)


if __name__ == "__main__":
    main()
