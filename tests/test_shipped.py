"""The model that comes with the package: whole, small, described, and never shown a test picture."""

import hashlib
import json
import zipfile

import pytest
import torch

from diffusion_lab import cascade
from diffusion_lab.data.celeba import built_in_faces
from diffusion_lab.inpainting import shipped


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """The first 16 hexadecimal digits of the SHA-256 of every picture that it was trained on."""
    return set((shipped() / "pictures.txt").read_text().split())


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_it_was_trained_on_the_train_partition_alone(seen: set[str], split: str) -> None:
    parts = dict(line.split() for line in (built_in_faces() / "list_eval_partition.txt").read_text().splitlines())
    wanted = {"train": "0", "valid": "1", "test": "2"}[split]
    with zipfile.ZipFile(built_in_faces() / "img_align_celeba.zip") as archive:
        found = {
            hashlib.sha256(archive.read(name)).hexdigest()[:16]
            for name in archive.namelist()
            if parts.get(name.rpartition("/")[2]) == wanted
        }
    assert len(found) == {"train": 1600, "valid": 200, "test": 200}[split]
    assert found <= seen if split == "train" else not found & seen


def test_it_is_small_and_described(seen: set[str]) -> None:
    assert len(seen) == 9600 + 4160  # at 178x218 for the first stage, and at 320x320 for the second
    assert sum(path.stat().st_size for path in shipped().iterdir()) < 20e6
    results = json.loads((shipped() / "results.json").read_text())
    assert {row["network_calls"] for row in results["rows"]} >= {0, 10, 25, 50}
    assert "non-commercial" in (shipped() / "card.md").read_text()


def test_it_fills_a_hole_at_the_size_of_a_face_in_a_photo() -> None:
    model = cascade.load(shipped())
    assert isinstance(model, cascade.Cascade)
    assert model.sizes == (64, 256)
    image, mask = torch.zeros(1, 3, 256, 256), torch.zeros(1, 1, 256, 256, dtype=torch.bool)
    mask[..., 80:112, 80:160] = True
    filled = model(image, mask, seeds=[0])
    assert torch.equal(filled[..., ~mask[0, 0]], image[..., ~mask[0, 0]])
    assert not torch.equal(filled, image)
    assert bool(filled.isfinite().all())
