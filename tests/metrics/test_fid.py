import math
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torchmetrics import MetricCollection

from diffusion_lab.metrics import FrechetDistance, PictureMean, frechet_distance, l1_hole, psnr, seam

MOST_KEPT = 48  # as many pictures as there are features


class Pixels(nn.Module):
    """Stands for Inception: the mean of each channel in each sixteenth, 48 features."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1)


def pictures(n: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_kept_features_and_folded_sums_give_the_same() -> None:
    extractor = Pixels()
    for n in (MOST_KEPT, MOST_KEPT + 1, 2 * MOST_KEPT + 7):
        real, fake = pictures(n, 0), pictures(n, 1) // 2
        fid = FrechetDistance(extractor)
        for part in (0, 1, 2):
            fid.update(real[part::3], real=True)
            fid.update(fake[part::3], real=False)
        assert len(fid.real_moments) == (n > MOST_KEPT)
        expected = frechet_distance(extractor(real), extractor(fake)).item()
        assert fid.compute().item() == pytest.approx(expected, rel=1e-9)
        assert fid.compute().dtype == torch.float64


def test_a_small_set_against_a_large_one() -> None:
    real, fake = pictures(MOST_KEPT + 100, 0), pictures(50, 1) // 2
    expected = frechet_distance(Pixels()(real), Pixels()(fake)).item()
    for swapped in (False, True):
        fid = FrechetDistance(Pixels())
        fid.update(real, real=not swapped)
        fid.update(fake, real=swapped)
        assert fid.compute().item() == pytest.approx(expected, rel=1e-9)


def test_reset_keeps_the_real_side_only_if_told() -> None:
    for keep in (True, False):
        fid = FrechetDistance(Pixels(), keep_real=keep)
        fid.update(pictures(9, 0), real=True)
        fid.update(pictures(9, 1), real=False)
        first = fid.compute()
        fid.reset()
        fid.update(pictures(9, 1), real=False)
        if not keep:
            assert fid.compute().isnan()
            fid.update(pictures(9, 0), real=True)
        assert torch.equal(fid.compute(), first)


def test_one_picture_has_no_distance() -> None:
    fid = FrechetDistance(Pixels())
    fid.update(pictures(1, 0), real=True)
    fid.update(pictures(1, 1), real=False)
    assert fid.compute().isnan()


def test_features_that_are_not_finite_are_refused() -> None:
    fid = FrechetDistance(Pixels())
    with pytest.raises(ValueError, match="not finite"):
        fid.add_features(torch.tensor([[1.0, torch.nan]]), real=True)


def test_survives_pickle_and_half() -> None:
    fid = FrechetDistance(Pixels())
    fid.update(pictures(9, 0), real=True)
    fid.update(pictures(9, 1), real=False)
    assert torch.equal(pickle.loads(pickle.dumps(fid)).compute(), fid.compute())
    assert fid.half().compute().dtype == torch.float64


def test_works_in_a_collection() -> None:
    metrics = MetricCollection(
        {
            "fid": FrechetDistance(Pixels()),
            "psnr": PictureMean(psnr),
            "l1": PictureMean(l1_hole),
            "squared": PictureMean(lambda images, target, mask: l1_hole(images, target, mask) ** 2),
            "seam": PictureMean(seam),
        }
    )
    target, mask = pictures(4, 0), torch.ones(4, 1, 8, 8, dtype=torch.bool)
    mask[..., :4] = False
    metrics["fid"].update(target, real=True)
    metrics.update(
        images=target, target=target, mask=mask, real=False
    )  # l1 and squared are both 0: not the same metric
    other = pictures(4, 1)
    metrics.update(images=other, target=target, mask=mask, real=False)
    values = metrics.compute()
    assert values["l1"].item() == pytest.approx(l1_hole(other, target, mask).mean().item() / 2)
    assert values["squared"].item() == pytest.approx((l1_hole(other, target, mask) ** 2).mean().item() / 2)
    assert values["seam"].item() == pytest.approx((1 + seam(other, target, mask).mean().item()) / 2)
    assert values["psnr"].isinf()
    fakes = torch.cat([target, other])
    assert values["fid"].item() == pytest.approx(frechet_distance(Pixels()(target), Pixels()(fakes)).item(), rel=1e-9)


COUNTS = (1, 2, 37, MOST_KEPT + 3, 205)  # a rank without pictures; not divisible; kept by ranks, not together; sums


def _on_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    # By a file: a port that is free now may be another process's by the time that the ranks meet there.
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    values = {}
    for n in COUNTS:
        fid = FrechetDistance(Pixels(), keep_real=True)
        for seed in (1, 2):  # the second time on kept real pictures
            fid.reset()
            if seed == 1:
                fid.update(pictures(n, 0)[rank::world], real=True)
            fid.update(pictures(n, seed)[rank::world] // 2, real=False)
            values[n, seed] = fid.compute().item()
    mean = PictureMean(psnr)
    target = pictures(37, 0)[rank::world]
    mean.update(images=pictures(37, 1)[rank::world], target=target, mask=torch.ones(len(target), 1, 8, 8))
    values["psnr"] = mean.compute().item()
    torch.save(values, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow  # tests/test_evaluation.py has two processes in the default run
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_agree_with_one(world: int, tmp_path: Path) -> None:
    mp.spawn(_on_rank, (world, str(tmp_path)), nprocs=world)
    values = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for n in COUNTS[1:]:
        for seed in (1, 2):
            alone = frechet_distance(Pixels()(pictures(n, 0)), Pixels()(pictures(n, seed) // 2)).item()
            assert [each[n, seed] for each in values] == pytest.approx([alone] * world, rel=1e-9)
    assert all(math.isnan(each[1, 1]) for each in values)
    expected = psnr(pictures(37, 1), pictures(37, 0)).mean().item()
    assert [each["psnr"] for each in values] == pytest.approx([expected] * world, rel=1e-12)
