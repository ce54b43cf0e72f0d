"""Every yaml of the groups data and mask makes what it says."""

from pathlib import Path

import hydra
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from diffusion_lab.data.datamodule import FaceData

CONF = Path(__file__).parents[2] / "conf"
OWN_ROOT = ("celeba", "folder")


def config(tmp_path: Path, data: str = "faces", mask: str = "palette") -> "OmegaConf":
    return OmegaConf.create(
        {
            "seed": 3,
            "paths": {"cache": str(tmp_path / "cache")},
            "data": OmegaConf.load(CONF / "data" / f"{data}.yaml"),
            "mask": OmegaConf.load(CONF / "mask" / f"{mask}.yaml"),
        }
    )


@pytest.mark.parametrize("name", sorted(file.stem for file in (CONF / "mask").glob("*.yaml")))
def test_mask_yaml_is_a_mask_function(name, tmp_path):
    from PIL import Image

    Image.linear_gradient("L").save(tmp_path / "mask.png")
    settings = config(tmp_path, mask=name)
    if name == "folder":
        settings.mask.folder = str(tmp_path)
    mask = hydra.utils.instantiate(settings.mask)
    drawn = mask(32, torch.Generator().manual_seed(0))
    assert (drawn.dtype, drawn.shape) == (torch.bool, (1, 32, 32))
    assert 0 < int(drawn.sum()) <= 32 * 32
    assert bool(drawn.all()) <= ("masks.everything" in OmegaConf.to_yaml(settings.mask))  # only those that mean it


def test_faces_yaml_makes_the_built_in_faces(tmp_path):
    data = hydra.utils.instantiate(config(tmp_path).data)
    assert isinstance(data, FaceData)
    assert (data.name, data.crop.name, data.image_size, data.seed) == ("built-in faces", "center148", 32, 3)


@pytest.mark.parametrize("name", OWN_ROOT)
def test_root_makes_the_data(name, tmp_path, make_celeba):
    settings = config(tmp_path, name)
    settings.data.root = str(make_celeba(60))
    settings.data.image_size, settings.data.batch_size, settings.data.num_workers = 8, 4, 0
    data = hydra.utils.instantiate(settings.data)
    data.prepare_data()
    assert sum(len(data.source.names(split)) for split in ("train", "valid", "test")) == 60
    assert next(iter(data.train_dataloader())).image.shape == (4, 3, 8, 8)


@pytest.mark.parametrize("name", OWN_ROOT)
def test_no_root_is_one_sentence_with_a_way_out(name, tmp_path):
    with pytest.raises(InstantiationException) as error:
        hydra.utils.instantiate(config(tmp_path, name).data)
    message = str(error.value.__cause__)
    assert message.startswith(f"data={name} needs data.root=<folder")
    assert "data=faces" in message


def test_missing_mask_folder_is_one_sentence(tmp_path):
    with pytest.raises(InstantiationException) as error:
        hydra.utils.instantiate(config(tmp_path, mask="folder").mask)
    assert str(error.value.__cause__).startswith("mask=folder needs mask.folder=")
