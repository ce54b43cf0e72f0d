"""Fill the hole of one picture: `uv run inpaint.py image=me.jpg mask=hole.png`."""

from omegaconf import DictConfig

from diffusion_lab.cli import command


@command(
    "inpaint",
    paths=["image", "mask", "output", "film", "inpainter", "credentials.chain", "credentials.key", "paths.logs"],
    rename={"mask": "hole"},
)
def main(cfg: DictConfig) -> None:
    from diffusion_lab.restoring import run  # late: help does not wait for torch

    run(cfg)


if __name__ == "__main__":
    main()
