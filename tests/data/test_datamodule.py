import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn

from diffusion_lab.data.batches import TrainingBatches
from diffusion_lab.data.celeba import CelebA
from diffusion_lab.data.crops import center148
from diffusion_lab.data.datamodule import Batch, FaceData
from diffusion_lab.data.degradations import luma, noisy_reduced
from diffusion_lab.data.examples import EvaluationExamples, TrainingExamples, to_float
from diffusion_lab.data.folder import Folder
from diffusion_lab.data.jitter import Jitter
from diffusion_lab.data.masks import evaluation_mask, palette, rectangle

SIZE = 16


@pytest.fixture
def make_data(make_celeba: Callable[..., Path], tmp_path: Path) -> Callable[..., FaceData]:
    root = make_celeba(50)

    def make(seed: int = 0, batch_size: int = 8, num_workers: int = 0, flip: bool = True) -> FaceData:
        source = CelebA(root, name="tiny CelebA")
        return FaceData(source, center148(), SIZE, batch_size, palette, seed, tmp_path / "cache", num_workers, flip)

    return make


class Recorder(LightningModule):
    """Remembers which pictures it saw, and counts its batches as the contract with the data asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.batches_seen = 0
        self.seen: list[list[int]] = []
        self.validated: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.batches_seen += 1
        self.seen.append(batch.index.tolist())
        return (self.scale * batch.image.mean()) ** 2

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated += batch.index.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        checkpoint["batches_seen"] = self.batches_seen

    def on_load_checkpoint(self, checkpoint: dict[str, int]) -> None:
        self.batches_seen = checkpoint["batches_seen"]


def trainer(folder: Path, max_steps: int) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        max_steps=max_steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_batch_is_what_the_contract_says(make_data):
    data = make_data()
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    assert (batch.image.shape, batch.image.dtype) == ((8, 3, SIZE, SIZE), torch.uint8)
    assert (batch.mask.shape, batch.mask.dtype) == ((8, 1, SIZE, SIZE), torch.bool)
    assert (batch.index.shape, batch.index.dtype) == ((8,), torch.int64)
    assert (batch.key.shape, batch.key.dtype) == ((8,), torch.int64)
    assert bool((batch.key >= 0).all())
    assert data.name == "tiny CelebA"


def test_pictures_are_bytes_until_they_are_on_the_device(make_data):
    data = make_data(flip=False)
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.image, data.pictures("train")[batch.index])
    there = data.on_after_batch_transfer(batch, 0)
    assert there.image.dtype == torch.float32
    assert torch.equal(((there.image + 1) * 127.5).round().to(torch.uint8), batch.image)
    assert -1 <= there.image.min() < there.image.max() <= 1
    assert there.given is there.image
    assert all(torch.equal(getattr(there, name), getattr(batch, name)) for name in ("mask", "index", "key"))
    data.degrade = luma
    batch = next(iter(data.train_dataloader()))
    there = data.on_after_batch_transfer(batch, 0)
    assert torch.equal(there.given, to_float(batch.given))
    assert not torch.equal(there.given, there.image)


def test_flips_mirror_about_half_the_pictures_and_nothing_else(make_data):
    data = make_data()
    pictures = data.pictures("train")
    flipped = 0
    for batch in data.train_dataloader():
        for image, index in zip(batch.image, batch.index, strict=True):
            plain = pictures.images[index]
            assert torch.equal(image, plain) != torch.equal(image, plain.flip(2))
            flipped += torch.equal(image, plain.flip(2))
    assert 8 <= flipped <= 32  # of 40: within four standard errors of a half


def test_same_seed_same_batches_and_another_seed_others(make_data):
    first, again, other = (list(make_data(seed=seed).train_dataloader()) for seed in (0, 0, 1))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not any(same(a, b) for a, b in zip(first, other, strict=True))


def test_two_ranks_see_the_batch_of_one(make_data):
    data = make_data()
    pictures = data.pictures("train")
    whole = TrainingExamples(pictures, palette, 0, flip=True)
    for step in range(7):  # into the second epoch
        alone = whole.__getitems__(next(iter(TrainingBatches(40, 8, 0, step, step + 1))))
        parts = [whole.__getitems__(next(iter(TrainingBatches(40, 8, 0, step, step + 1, rank, 2)))) for rank in (0, 1)]
        joined = Batch(*(torch.stack(pair, dim=1).flatten(0, 1) for pair in zip(*parts, strict=True)))
        assert same(joined, alone)


def test_keys_and_masks_differ_over_pictures_and_epochs(make_data):
    data = make_data()
    data.trainer = trainer(data.cache, max_steps=10)  # two epochs of five batches
    data.trainer.strategy.connect(Recorder())
    batches = list(data.train_dataloader())
    keys = torch.cat([batch.key for batch in batches]).tolist()
    assert len(set(keys)) == len(keys) == 80
    masks = {batch.mask[i].numpy().tobytes() for batch in batches for i in range(8)}
    assert len(masks) == 80


def test_training_noise_and_mask_are_not_drawn_from_one_number(make_data):
    data = make_data()
    batch = next(iter(data.train_dataloader()))
    for key, mask in zip(batch.key.tolist(), batch.mask, strict=True):
        assert not torch.equal(palette(SIZE, torch.Generator().manual_seed(key)), mask)


@pytest.mark.slow  # processes
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_change_nothing(make_data):
    for alone, shared in (
        (make_data().train_dataloader(), make_data(num_workers=2).train_dataloader()),
        (make_data().val_dataloader(), make_data(num_workers=2).val_dataloader()),
    ):
        assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


def test_evaluation_masks_are_the_versioned_set_whatever_seed_and_batch(make_data):
    for batch_size in (2, 5):
        data = make_data(seed=batch_size, batch_size=batch_size)
        batches = list(data.val_dataloader())
        index = torch.cat([batch.index for batch in batches])
        masks = torch.cat([batch.mask for batch in batches])
        keys = torch.cat([batch.key for batch in batches])
        assert index.tolist() == list(range(5))
        assert all(torch.equal(mask, evaluation_mask(palette, SIZE, i)) for i, mask in enumerate(masks))
        assert len(set(keys.tolist())) == 5
        examples = EvaluationExamples(data.pictures("valid"), palette)
        assert torch.equal(examples.__getitems__(torch.tensor([3])).key, keys[3:4])
    assert not torch.equal(masks[0], masks[1])


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*does not have many workers")
def test_lightning_sees_the_whole_run_as_one_epoch_and_resumes_behind_what_it_saw(make_data, tmp_path):
    whole = Recorder()
    trainer(tmp_path, 12).fit(whole, datamodule=make_data())
    assert len(whole.seen) == 12  # 2.4 passes over 40 pictures
    assert whole.validated == list(range(5))
    for epoch in range(2):
        assert sorted(itertools.chain(*whole.seen[5 * epoch : 5 * epoch + 5])) == list(range(40))

    first, second = Recorder(), Recorder()
    stopped = trainer(tmp_path, 12)
    first.on_train_batch_end = lambda *_: setattr(stopped, "should_stop", first.batches_seen >= 3)
    stopped.fit(first, datamodule=make_data())
    stopped.save_checkpoint(tmp_path / "mid.ckpt")
    resumed = trainer(tmp_path, 12)
    resumed.fit(second, datamodule=make_data(), ckpt_path=tmp_path / "mid.ckpt", weights_only=True)
    assert first.seen + second.seen == whole.seen
    assert resumed.global_step == 12


def test_one_picture_trains(tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (200, 200), "red").save(tmp_path / "one" / "me.png")
    source = Folder(tmp_path / "one", shares=(1, 0, 0))
    data = FaceData(source, center148(), 8, 1, rectangle, 0, tmp_path / "cache")
    assert len(list(data.train_dataloader())) == 1
    data = FaceData(source, center148(), 8, 2, rectangle, 0, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"data\.batch_size=2 cannot be filled from 1 training pictures"):
        data.train_dataloader()


def test_image_size_below_one_is_refused(make_data):
    with pytest.raises(ValueError, match=r"data\.image_size must be at least 1 pixel, got 0"):
        FaceData(Folder("anywhere"), center148(), 0, 8, palette, 0, "cache")


@pytest.mark.parametrize("jitter", [None, Jitter()])
def test_what_is_given_follows_from_seed_epoch_and_index(
    make_celeba: Callable[..., Path], tmp_path: Path, jitter: Jitter | None
) -> None:
    """Whatever the batch, the workers or a resumption; outside the hole it is the picture."""
    source = CelebA(make_celeba(50), name="tiny CelebA")

    def make(batch_size: int, workers: int = 0) -> FaceData:
        degrade = partial(noisy_reduced, factor=2, noise=0.2)
        crop, cache = center148(), tmp_path / "cache"
        return FaceData(
            source, crop, 32, batch_size, palette, 0, cache, workers, degrade=degrade, window=SIZE, jitter=jitter
        )

    batches = list(itertools.islice(make(8).train_dataloader(), 5))
    joined = Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    again = list(itertools.islice(make(4, workers=1).train_dataloader(), 10))
    assert same(joined, Batch(*(torch.cat(parts) for parts in zip(*again, strict=True))))
    assert joined.image.shape == joined.given.shape == (40, 3, SIZE, SIZE)
    assert torch.equal(torch.where(joined.mask, joined.image, joined.given), joined.image)
    assert not torch.equal(joined.given, joined.image)
    valid = next(iter(make(8).val_dataloader()))
    assert valid.image.shape == valid.given.shape == (5, 3, 32, 32)  # whole pictures
    assert torch.equal(valid.given, next(iter(make(8).val_dataloader())).given)


def test_a_degradation_or_a_window_leaves_masks_and_noise_as_they_were(make_data: Callable[..., FaceData]) -> None:
    """What another kind of training draws comes after what all draw: earlier runs are repeated bit for bit."""
    words = [np.random.SeedSequence((0, 1, 7)).generate_state(count, np.uint64)[:3].tolist() for count in (3, 5, 6)]
    assert words[0] == words[1] == words[2]
    batch = next(iter(make_data().train_dataloader()))
    assert batch.given is batch.image
    wanted = [np.random.SeedSequence((0, 0, i)).generate_state(3, np.uint64)[0] >> 1 for i in batch.index.tolist()]
    assert batch.key.tolist() == [int(word) for word in wanted]
