"""Small folders in CelebA's format and small models, made on the spot."""

import io
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if sys.dont_write_bytecode:
    # Containers often ask that none is left beside the sources. So it goes to where it is in nobody's way: without any,
    # every process that the tests start compiles torch and Lightning anew, for ten seconds.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode"))
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"]

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, settings
from PIL import Image

from diffusion_lab.inpainting import Inpainter
from small import small_inpainter

ROOT = Path(__file__).parents[1]

if "PYTEST_XDIST_WORKER" in os.environ:  # several share the cores: a thread each, and for what they start
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Half of the tests for each of two workers, and from the other's when one is done: modules share their fixtures.

    What xdist does of itself deals them out one by one, so that each worker builds the fixtures of every module.
    """
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


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


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like CelebA's of 40 pictures, the same for all tests: 32 to train on, 4 to validate, 4 to test."""
    root = tmp_path_factory.mktemp("celeba")
    (root / "img_align_celeba").mkdir()
    names = [f"{i + 1:06d}.jpg" for i in range(40)]
    for i, name in enumerate(names):
        (root / "img_align_celeba" / name).write_bytes(jpeg(i))
    (root / "list_eval_partition.txt").write_text("".join(f"{n} {PARTS[i % 10]}\n" for i, n in enumerate(names)))
    return root


@pytest.fixture
def tiny(faces: Path, tmp_path: Path) -> list[str]:
    """Overrides of train.py that make a run small, and alike on every machine."""
    data = ["data=celeba", f"data.root={faces}", "data.image_size=16", "data.batch_size=4"]
    model = ["model=unet", "model.channels=32", "model.multipliers=[1]", "metrics=none", "sampler.steps=2"]
    trainer = ["trainer.validations=1", "trainer.precision=32-true", "trainer.accelerator=cpu", "logger=jsonl"]
    return [*data, *model, *trainer, f"paths.logs={tmp_path / 'logs'}", f"paths.cache={tmp_path / 'cache'}"]


@pytest.fixture
def inpainter() -> Inpainter:
    return small_inpainter()


@pytest.fixture
def run_script(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a script as the interpreter would, in this process: its exit code, stdout and stderr."""

    def run(script: str, *overrides: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        code = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(ROOT / script), *overrides])
            try:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            except SystemExit as ended:
                code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
