"""Every option of every group composes, resolves and builds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from diffusion_lab import recipe
from diffusion_lab.data.masks import evaluation_mask
from diffusion_lab.inpainting import Inpainter

CONF = Path(__file__).parents[1] / "conf"
OPTIONS = sorted(
    (
        path.relative_to(CONF).parts[0],
        path.relative_to(CONF / path.relative_to(CONF).parts[0]).with_suffix("").as_posix(),
    )
    for path in CONF.glob("*/**/*.yaml")
    if path.relative_to(CONF).parts[0] not in ("experiment", "local")
)
EXPERIMENTS = sorted(
    path.relative_to(CONF / "experiment").with_suffix("").as_posix() for path in CONF.glob("experiment/**/*.yaml")
)


@pytest.fixture(autouse=True)
def conf() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


def composed(name: str, *overrides: str) -> DictConfig:
    cfg = compose(name, overrides=list(overrides), return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = "somewhere"
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg.hydra
    return cfg


def plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True)


def guide(folder: Path) -> list[str]:
    """A classifier on disk, and the overrides that guide by it."""
    model = {
        "_target_": "diffusion_lab.classifying.AttributeClassifier",
        "denoiser": {
            "_target_": "diffusion_lab.diffusion.guidance.NetworkClassifier",
            "network": {
                "_target_": "diffusion_lab.networks.classifier.Classifier",
                "image_size": 8,
                "outputs": 2,
                "channels": 8,
                "multipliers": [1],
                "head_width": 8,
            },
            "schedule": {"_target_": "diffusion_lab.diffusion.schedule.linear"},
        },
    }
    made = recipe.build(model)
    made.recipe = {"model": model, "data": {"attributes": ["Smiling", "Young"]}}
    made.save(folder / "classifier")
    return [f"sampler.classifier='{folder}/classifier'", "sampler.attributes={Young: 0}"]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_builds(group: str, option: str, tmp_path: Path) -> None:
    rooted = [f"data.root={tmp_path}"] if group == "data" and option != "faces" else []
    masks = [f"mask.folder={tmp_path}"] if (group, option) == ("mask", "folder") else []
    if masks:
        from PIL import Image

        Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    if group == "methods":
        methods = composed("evaluate", f"methods={option}").methods
        assert all(sampler is None or recipe.build(plain(sampler)) is not None for sampler in methods.values())
        return
    if group == "baseline":
        if option == "nearest_face":  # made of the training pictures when they are there
            overrides = ["+baseline@baselines.nearest=nearest_face"]
            assert callable(instantiate(composed("evaluate", *overrides).baselines.nearest))
            return
        own = {"folder": f"root={tmp_path}", "command": "line='tool {image} {mask} {output}'"}[option]
        overrides = [f"+baseline@baselines.tool={option}", "baselines.tool.name=tool", f"baselines.tool.{own}"]
        assert instantiate(composed("evaluate", *overrides).baselines.tool).name == "tool"
        return
    if group == "resize":
        chosen = composed("evaluate", f"resize@fid.extractor.resize={option}").fid.extractor.resize
        assert instantiate(chosen).words
        return
    if group == "features":  # made of a file of weights
        chosen = composed("evaluate", f"features@fd.extractor={option}", "fd.extractor.weights=none").fd.extractor
        with pytest.raises(InstantiationException, match=r"needs .* safetensors"):
            instantiate(chosen)
        return
    if group == "protocol":  # its holes stand in place of the task's
        cfg = composed("evaluate", f"+protocol={option}")
        masks = instantiate(cfg.protocol.masks, _convert_="all")
        assert len(masks) == {"repaint": 6, "lama": 3, "copaint": 6}[option]
        assert cfg.num_images == {"repaint": 100, "lama": 2000, "copaint": 100}[option]
        holes = {name: evaluation_mask(mask, 64, 0) for name, mask in masks.items()}
        if "half" in holes:  # its left half is given, its square in the middle, every second row
            assert not holes["half"][..., :32].any()
            assert holes["half"][..., 32:].all()
            assert (~holes["expand"]).nonzero()[:, 1:].unique().tolist() == list(range(24, 40))
            assert holes["alternating_lines"].float().mean() == 0.5
        return
    if group == "engine":  # made of a model's folder when the service starts
        assert callable(instantiate(composed("serve", f"engine={option}").engine))
        return
    guides = guide(tmp_path) if option.startswith("classifier_guided") else []
    company = {"artefact=classifier": ["model=classifier"], "artefact=dpm2015": ["experiment=dpm2015_swissroll"]}
    chosen = f"{group}={option}"
    cfg = composed("train", chosen, *rooted, *masks, *guides, *company.get(chosen, []))
    node = cfg["inpainter" if group == "artefact" else group]
    if group == "model":
        with torch.device("meta"):
            assert isinstance(recipe.build(plain(node)), nn.Module)
    elif group in ("schedule", "objective", "sampler", "artefact"):
        assert recipe.build(plain(node)) is not None
    elif group == "logger":
        assert set(node) >= {"jsonl"}
    elif group not in ("paths", "trainer"):
        assert instantiate(node, _convert_="all") is not None


def test_the_default_inpainter_is_rebuilt_from_its_recipe() -> None:
    cfg = composed("train")
    assert isinstance(recipe.build(plain(cfg.inpainter)), Inpainter)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_builds(experiment: str, tmp_path: Path) -> None:
    cfg = composed("train", f"experiment={experiment}")
    with open_dict(cfg):
        if "root" in cfg.data:
            cfg.data.root = str(tmp_path)
    config = plain(cfg)
    assert config["name"] != "faces"
    with torch.device("meta"):
        recipe.build(config["model"])
    for part in ("schedule", "objective", "sampler"):
        recipe.build(config[part])
    instantiate(cfg.optimizer.learning_rate)
    instantiate(cfg.data)


@pytest.mark.parametrize("name", ["train", "evaluate", "likelihood", "inpaint", "restore", "serve", "pipeline"])
def test_every_script_composes_and_names_what_is_missing(name: str) -> None:
    missing = OmegaConf.missing_keys(composed(name))
    assert missing == {"inpaint": {"image", "hole"}, "restore": {"image"}}.get(name, set())
