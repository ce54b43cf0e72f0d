from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import center148, ddim128
from diffusion_lab.data.datamodule import FaceData
from diffusion_lab.data.examples import TrainingExamples
from diffusion_lab.data.labels import REGIONS, Listed, Measured, inside
from diffusion_lab.data.masks import palette


def data_of(root: Path, cache: Path, labels: Listed | Measured) -> FaceData:
    return FaceData(CelebA(root), center148(), 16, 8, palette, 0, cache, labels=labels)


def test_listed_attributes_follow_their_pictures_into_the_batch(
    make_celeba: Callable[..., Path], tmp_path: Path
) -> None:
    data = data_of(make_celeba(50, lists=True), tmp_path / "cache", Listed())
    assert list(data.attributes) == ["Smiling", "Young"]
    batch = next(iter(data.train_dataloader()))
    names = [data.pictures("train").names[i] for i in batch.index.tolist()]
    odd = [float(int(Path(name).stem) % 2 == 0) for name in names]  # the list has picture i + 1 smile for odd i
    assert batch.attributes.tolist() == [[value, 0.0] for value in odd]


def test_faces_that_nobody_listed_are_refused_with_the_way_out(
    make_celeba: Callable[..., Path], tmp_path: Path
) -> None:
    data = data_of(make_celeba(20), tmp_path / "cache", Listed())
    with pytest.raises(FileNotFoundError, match="labels=measured"):
        _ = data.attributes


def test_measured_attributes_halve_the_training_split(make_celeba: Callable[..., Path], tmp_path: Path) -> None:
    data = data_of(make_celeba(50), tmp_path / "cache", Measured())
    values = data.attributes_of("train")
    assert values is not None
    assert values.shape == (40, 3)
    assert values.sum(dim=0).tolist() == [20.0, 20.0, 20.0]
    assert data.attributes[0] == "hair_luminance_above_median"


def test_luminance_is_that_of_the_region_alone() -> None:
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    hair = inside(REGIONS["hair"], center148(), 32)
    images[0, :, hair] = 200
    images[1, 1] = 100  # green everywhere
    found = Measured().luminance(images, center148())
    torch.testing.assert_close(found, torch.tensor([[200.0, 0.0, 0.0], [58.7, 58.7, 58.7]]))


@pytest.mark.parametrize("crop", [center148(), ddim128()])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_every_region_has_pixels_at_every_size(crop, size: int) -> None:
    masks = [inside(boxes, crop, size) for boxes in REGIONS.values()]
    assert all(mask.any() for mask in masks[: 3 if crop == center148() else 2])


def test_without_labels_batches_have_no_attributes(make_celeba: Callable[..., Path], tmp_path: Path) -> None:
    data = FaceData(CelebA(make_celeba(20)), center148(), 16, 4, palette, 0, tmp_path / "cache")
    assert data.attributes == ()
    assert TrainingExamples(data.pictures("train"), palette, 0, flip=False).attributes.shape == (16, 0)
    assert built_in_faces().is_dir()
