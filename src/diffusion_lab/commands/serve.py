"""Serve an inpainter: ``uv run serve.py`` opens a page and an API; see ``conf/serve.yaml`` for what can be set."""

from omegaconf import DictConfig

from diffusion_lab.cli import command


@command("serve", paths=["inpainter", "registry", "paths.logs", "credentials.chain", "credentials.key"])
def main(cfg: DictConfig) -> None:
    import logging
    from functools import partial
    from pathlib import Path

    from hydra.utils import instantiate

    from diffusion_lab import credentials
    from diffusion_lab.inpainting import newest, shipped
    from diffusion_lab.serving.run import serve

    logging.basicConfig(level=cfg.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    follow = None
    if cfg.inpainter and "@" in cfg.inpainter and not Path(cfg.inpainter).exists():
        from diffusion_lab.registry import Registry

        follow = partial(Registry(cfg.registry).resolve, cfg.inpainter)
        folder, named = follow(), cfg.inpainter
    elif cfg.inpainter:
        folder, named = Path(cfg.inpainter), f"'{cfg.inpainter}'"
    else:
        folder = newest(Path(cfg.paths.logs))
        named = "the shipped model" if folder == shipped() else f"the newest run's '{folder}'"
    serve(
        folder,
        named,
        engine=instantiate(cfg.engine),
        host=cfg.host,
        port=cfg.port,
        keys=list(cfg["keys"]),  # cfg.keys is a method
        allow_open=cfg.allow_open,
        limits=instantiate(cfg.limits),
        credentials=credentials.named(cfg.credentials.chain, cfg.credentials.key),
        drain=cfg.drain,
        follow=follow,
        poll=cfg.poll,
    )


if __name__ == "__main__":
    main()
