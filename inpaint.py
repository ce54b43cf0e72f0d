"""Fill the hole of one picture: `uv run inpaint.py image=me.jpg mask=hole.png`; white = hole."""

from omegaconf import DictConfig

from diffusion_lab.cli import chosen, command


@command("inpaint", paths=["image", "mask", "output", "inpainter", "paths.logs"], rename={"mask": "hole"})
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from hydra.utils import instantiate

    from diffusion_lab.inpainting import Inpainter, device
    from diffusion_lab.pictures import save_png
    from diffusion_lab.restoration import as_mask, as_rgb, opened, restore

    output = Path(cfg.output)
    if output.suffix.lower() != ".png":
        raise ValueError(f"output={output} must end in .png: another format would change the known pixels")
    image, hole = opened(Path(cfg.image), "image"), opened(Path(cfg.hole), "mask")
    folder = chosen(cfg.inpainter, cfg.paths.logs)
    print(f"inpainter: {folder}", flush=True)
    seeds = list(range(cfg.seed, cfg.seed + cfg.num_samples))
    inpainter = Inpainter.load(folder).to(device(cfg.device))
    pictures = restore(
        inpainter,
        as_rgb(image),
        as_mask(hole),
        seeds,
        sampler=instantiate(cfg.get("sampler")),
        feather=cfg.feather,
        attributes=cfg.attributes,
    )
    for seed, picture in zip(seeds, pictures, strict=True):
        path = output if len(seeds) == 1 else output.with_stem(f"{output.stem}-{seed}")
        save_png(picture, path)
        print(f"wrote {path} (seed {seed}, {inpainter.network_calls(instantiate(cfg.get('sampler')))} network calls)")


if __name__ == "__main__":
    main()
