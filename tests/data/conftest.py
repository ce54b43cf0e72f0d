"""Small folders in CelebA's format, made on the spot."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PARTS = (0, 0, 0, 0, 0, 0, 0, 0, 1, 2)


def jpeg(seed: int, size: tuple[int, int] = (178, 218)) -> bytes:
    """A smooth colour picture that JPEG keeps well and that no other seed makes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture
def make_celeba(tmp_path: Path) -> Callable[..., Path]:
    """Builds a folder like CelebA's of ``count`` pictures; ``lists`` adds the attributes, landmarks and identities."""

    def make(count: int = 20, *, lists: bool = False, folder: str = "CelebA, [unzipped] é=1") -> Path:
        root = tmp_path / folder
        (root / "img_align_celeba").mkdir(parents=True)
        names = [f"{i + 1:06d}.jpg" for i in range(count)]
        for i, name in enumerate(names):
            (root / "img_align_celeba" / name).write_bytes(jpeg(i))
        lines = [f"{name} {PARTS[i % 10]}\n" for i, name in enumerate(names)]
        (root / "list_eval_partition.txt").write_text("".join(lines))
        if lists:
            rows = [f"{name} {1 if i % 2 else -1} -1\n" for i, name in enumerate(names)]
            (root / "list_attr_celeba.txt").write_text(f"{count}\nSmiling Young\n" + "".join(rows))
            rows = [f"{name} {i} 111 111 111 89 132 70 152 108 152\n" for i, name in enumerate(names)]
            (root / "list_landmarks_align_celeba.txt").write_text(f"{count}\nlefteye_x ...\n" + "".join(rows))
            rows = [f"{name} {1000 + i}\n" for i, name in reversed(list(enumerate(names)))]
            (root / "identity_CelebA.txt").write_text("".join(rows))
        return root

    return make
