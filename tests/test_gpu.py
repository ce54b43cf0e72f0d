"""What must be the same on a GPU: `uv run pytest -m gpu` on a machine that has one."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torchvision.transforms.functional import to_pil_image

from diffusion_lab import cascade
from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import center148
from diffusion_lab.data.datamodule import Batch, FaceData
from diffusion_lab.data.examples import floats
from diffusion_lab.data.masks import center, free_form, palette
from diffusion_lab.diffusion import samplers, schedule
from diffusion_lab.diffusion.denoiser import NetworkDenoiser, Velocity
from diffusion_lab.diffusion.losses import DenoisingLoss, discrete_levels
from diffusion_lab.diffusion.noise import KeyedNoise
from diffusion_lab.evaluation import diffusion, evaluate, problems
from diffusion_lab.inpainting import Inpainter, shipped
from diffusion_lab.metrics import LPIPS
from diffusion_lab.networks.unet import UNet
from diffusion_lab.pictures import to_float, to_uint8
from diffusion_lab.serving.engine import Finished, Job
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.tasks import inpainting
from diffusion_lab.training.ema import exponential
from diffusion_lab.training.module import DiffusionModule, warmup_constant
from diffusion_lab.training.run import trainer

pytestmark = pytest.mark.gpu
STEPS = 60
DEVICE = "cuda"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FaceData:
    """The built-in faces at the size of the model that ships."""
    cache = tmp_path_factory.mktemp("cache")
    made = FaceData(CelebA(built_in_faces()), center148(), 64, batch_size=16, mask=palette, seed=0, cache=cache)
    made.prepare_data()
    return made


@pytest.fixture(scope="module")
def batch(data: FaceData) -> Batch:
    return floats(next(iter(data.val_dataloader())))


def base() -> Inpainter:
    """The first stage of the model that comes with the package, 64 px."""
    model = cascade.load(shipped())
    assert isinstance(model, cascade.Cascade)
    return cascade.apart(model)[0]


def levels_apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """In 8-bit levels, pixel by pixel."""
    return (to_uint8(a.cpu()).int() - to_uint8(b.cpu()).int()).abs()


@pytest.mark.parametrize("sampler", [samplers.ddpm(10), samplers.ddim(10), samplers.dpm_solver(10), samplers.heun(6)])
def test_the_picture_is_the_cpus(batch: Batch, sampler: samplers.Sampler) -> None:
    """The noise is drawn on the CPU, so that a seed means the same picture on both; float32 rounds differently."""
    inpainter = base()
    image, mask, seeds = batch.image[:4], batch.mask[:4], range(4)
    here = inpainter(image, mask, seeds=seeds, sampler=sampler)
    there = inpainter.to(DEVICE)(image.to(DEVICE), mask.to(DEVICE), seeds=seeds, sampler=sampler).cpu()
    hole = mask.expand_as(image)
    assert torch.equal(there[~hole], image[~hole])
    apart = levels_apart(here, there)[hole].float()
    assert apart.mean() < 0.5
    assert apart.quantile(0.99) <= 3


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_served_picture_depends_on_its_seed_alone(batch: Batch, autocast: torch.dtype | None) -> None:
    async def served(engine: LocalEngine, picture: int, steps: int) -> torch.Tensor:
        job = Job(batch.image[picture, None], batch.mask[picture, None], seeds=(picture,), sampler=samplers.ddpm(steps))
        async for event in engine.submit(job):
            if isinstance(event, Finished):
                return event.pictures[0, 0]
        raise AssertionError("never finished")

    async def everything() -> None:
        engine = LocalEngine(base().to(DEVICE), "here@1", autocast=autocast)
        await engine.ready()
        jobs = [(0, 10), (1, 5), (2, 25), (3, 10), (4, 50)]
        together = await asyncio.gather(*(served(engine, *job) for job in jobs))
        for job, in_company in zip(jobs, together, strict=True):
            alone = await served(engine, *job)
            apart = levels_apart(alone, in_company)
            assert apart.float().mean() < (0.05 if autocast is None else 1)  # kernels round by batch size
        await engine.drain(5.0)

    asyncio.run(everything())


def fitted(data: FaceData, folder: Path) -> tuple[DiffusionModule, float]:
    """A small network trained a little on the GPU, and its loss on the validation pictures."""
    torch.manual_seed(0)
    unet = UNet(image_size=64, channels=32, multipliers=[1, 2], depth=1, attention=[16], condition_channels=4, patch=2)
    module = DiffusionModule(
        Inpainter(NetworkDenoiser(unet, schedule.cosine(), Velocity()), samplers.ddpm(5)),
        levels=discrete_levels,
        loss=DenoisingLoss(Velocity()),
        optimizer=partial(torch.optim.AdamW, lr=2e-3),
        learning_rate=partial(warmup_constant, warmup=5),
        ema=partial(exponential, decays=[0.9]),
    )
    fit = trainer(
        folder=folder,
        max_steps=STEPS,
        validations=1,
        accelerator=DEVICE,
        devices=1,
        num_nodes=1,
        strategy=None,
        precision=None,
        gradient_clip_val=1.0,
        accumulate_grad_batches=1,
        log_every_n_steps=20,
        deterministic=False,
        callbacks=[],
        loggers=[],
    )
    fit.fit(module, data)
    assert fit.precision == "bf16-mixed"
    return module, float(fit.callback_metrics["val/loss"])


def test_it_learns_in_bfloat16_and_an_examples_loss_is_its_keys(data: FaceData, batch: Batch, tmp_path: Path) -> None:
    module, loss = fitted(data, tmp_path)
    assert loss < 0.6  # 1 before the first step
    module = module.to(DEVICE).eval()
    on = Batch(*(tensor.to(DEVICE) for tensor in batch))
    with torch.no_grad():
        _, together = module.example_losses(on)
        for i in (0, 7, 15):
            _, alone = module.example_losses(Batch(*(tensor[i : i + 1] for tensor in on)))
            torch.testing.assert_close(alone[0], together[i], rtol=1e-2, atol=1e-4)


def test_keyed_noise_is_the_cpus() -> None:
    keys = torch.randint(2**63 - 1, (64,))
    here, there = KeyedNoise(keys, (3, 64, 64)), KeyedNoise(keys.to(DEVICE), (3, 64, 64))
    assert torch.equal(here.words(9), there.words(9).cpu())
    assert torch.equal(here.uniform(2), there.uniform(2))
    torch.testing.assert_close(there().cpu(), here(), rtol=1e-5, atol=1e-5)


class Averaged(torch.nn.Module):
    """Stands for Inception, whose weights are a package of their own."""

    name, digest, resize = "averages", "none", "not resized"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 3).flatten(1)


def test_a_report_is_the_cpus(data: FaceData) -> None:
    """Every figure, from another device and batch size."""
    rows = []
    for accelerator, batch_size in (("cpu", 8), (DEVICE, 32)):
        fabric = Fabric(accelerator=accelerator, devices=1)
        inpainter = base()
        report = evaluate(
            [diffusion("ddpm", inpainter.to(fabric.device), samplers.ddpm(5), None)],
            data.pictures("test"),
            problems(inpainting(), {"center": center, "free_form": free_form}),
            extractor=Averaged(),
            fabric=fabric,
            num_images=32,
            batch_size=batch_size,
        )
        rows.append(report.rows)
    for here, there in zip(*rows, strict=True):
        for figure in ("lpips", "psnr", "ssim", "l1_hole", "fid"):
            assert there[figure] == pytest.approx(here[figure], rel=1e-2, abs=1e-4), figure


def test_lpips_is_the_cpus(batch: Batch) -> None:
    measure = LPIPS()
    here = measure(batch.image, batch.image.flip(3))
    there = measure.to(DEVICE)(batch.image.to(DEVICE), batch.image.flip(3).to(DEVICE)).cpu()
    torch.testing.assert_close(there, here, rtol=1e-2, atol=1e-4)


EXPERIMENTS = [
    "",
    "experiment=both",
    "experiment=iddpm",
    "experiment=attributes",
    "experiment=classifier",
    "experiment=dpm2015_swissroll trainer.accelerator=gpu",
    "experiment=dpm2015_binary trainer.accelerator=gpu",
    "objective=palette",
    "objective=edm",
    "objective=perturbed",
    "objective=hybrid_resampled callbacks=resample model.out_channels=6",
    "ema=power callbacks=snapshots",
    "mask=lama_thick sampler=dpm_solver",
    "sampler=dps sampler.steps=5",
]


@pytest.mark.parametrize("overrides", EXPERIMENTS)
def test_train_py_runs_there(
    run_script: Callable[..., tuple[int, str, str]], overrides: str, tmp_path: Path, tmp_path_factory: Any
) -> None:
    """Shortened, and nothing on the command line says that there is a GPU."""
    logs, cache = tmp_path / "logs", tmp_path_factory.getbasetemp() / "faces"
    short = ["trainer.max_steps=20", "trainer.validations=2", "logger=jsonl", "optimizer.learning_rate.warmup=5"]
    code, out, err = run_script("train.py", *overrides.split(), *short, f"paths.logs={logs}", f"paths.cache={cache}")
    assert code == 0, err
    assert DEVICE in out
    assert list(logs.glob("**/model.safetensors"))


def test_likelihood_py_and_inpaint_py_run_there(
    run_script: Callable[..., tuple[int, str, str]], batch: Batch, tmp_path: Path
) -> None:
    picture, hole = tmp_path / "face.png", tmp_path / "hole.png"
    to_pil_image(batch.image[0] / 2 + 0.5).save(picture)
    to_pil_image(batch.mask[0].float()).save(hole)
    made = [f"output={tmp_path / 'made.png'}", f"inpainter={shipped()}"]
    code, _, err = run_script("inpaint.py", f"image={picture}", f"mask={hole}", *made)
    assert code == 0, err
    base().save(tmp_path / "base")
    asked = [f"inpainter={tmp_path / 'base'}", "data=faces", "num_images=2", "steps=5"]
    code, _, err = run_script("likelihood.py", *asked, f"output={tmp_path}", f"paths.cache={tmp_path}")
    assert code == 0, err


def test_pixels_survive_the_trip(data: FaceData) -> None:
    pixels = data.pictures("test")[list(range(8))]
    assert torch.equal(to_uint8(to_float(pixels.to(DEVICE))).cpu(), pixels)
