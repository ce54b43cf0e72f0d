"""Batches of faces for Lightning, the same whatever the number of devices or workers and wherever a run was resumed."""

import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from diffusion_lab.data.batches import EvaluationBatches, TrainingBatches
from diffusion_lab.data.cache import Pictures, build
from diffusion_lab.data.crops import Crop
from diffusion_lab.data.degradations import Degrade, unchanged
from diffusion_lab.data.examples import Batch as Batch
from diffusion_lab.data.examples import EvaluationExamples, TrainingExamples, floats
from diffusion_lab.data.jitter import Jitter
from diffusion_lab.data.labels import Labels
from diffusion_lab.data.masks import MaskFn
from diffusion_lab.data.source import Source, split_number


class CountsBatches(Protocol):
    """A module that knows how many batches it has trained on, over all resumptions."""

    batches_seen: int


class StepLoader(DataLoader[Batch]):
    """A loader that stands where its sampler starts: saying that it has no state tells Lightning that it resumes."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the step is the module's ``batches_seen``."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class FaceData(LightningDataModule):
    """Pictures of a source, cropped, resized and masked.

    The training loader spans the run and starts at the batch that ``lightning_module.batches_seen`` names, so that
    a resumed run sees exactly the batches it has not seen. Lightning must not replace its sampler
    (``Trainer(use_distributed_sampler=False)``).

    Args:
        source: where the pictures come from.
        crop: the square of a picture to keep.
        image_size: side to resize it to, in pixels.
        batch_size: pictures of a step over all devices.
        mask: draws the holes.
        seed: of order, flips and training masks; evaluation masks do not depend on it.
        cache: folder of the decoded pictures.
        num_workers: processes per device that make batches; 0 makes them in the main process, which is fast enough
            for small pictures.
        flip: mirror every other training picture.
        labels: says which attributes the faces have, for models that are told them; None says nothing.
        degrade: makes of a picture what is given of it; None gives the picture, whose hole nobody looks at.
        window: side of the random square of each picture that is trained on, in pixels; None is all of it.
        jitter: draws the frame of each training picture near the crop's; None takes the crop's own.
    """

    def __init__(
        self,
        source: Source,
        crop: Crop,
        image_size: int,
        batch_size: int,
        mask: MaskFn,
        seed: int,
        cache: Path | str,
        num_workers: int = 0,
        flip: bool = True,
        labels: Labels | None = None,
        degrade: Degrade | None = None,
        window: int | None = None,
        jitter: Jitter | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(crop, Crop):  # from data.crop=center140, which is easily written
            raise ValueError(
                f"data.crop={crop} is no crop: name a function of diffusion_lab.data.crops, as in "
                "data.crop._target_=diffusion_lab.data.crops.center140."
            )
        if image_size < 1:
            raise ValueError(f"data.image_size must be at least 1 pixel, got {image_size}.")
        if window is not None and not 1 <= window <= image_size:
            raise ValueError(f"data.window must be in 1..{image_size}, the side of the pictures, got {window}.")
        if batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1 picture, got {batch_size}.")
        self.name: str = source.name  # goes with every reported number
        self.source, self.crop, self.image_size = source, crop, image_size
        self.batch_size, self.mask, self.seed = batch_size, mask, seed
        self.cache = Path(cache).expanduser()
        self.num_workers, self.flip, self.labels = num_workers, flip, labels
        self.degrade, self.window, self.jitter = degrade or unchanged, window, jitter
        self._pictures: dict[str, Pictures] = {}

    def prepare_data(self) -> None:
        """Download if asked, check what is there, decode what training needs; Lightning calls it on one process."""
        self.source.prepare()
        self._built_for_training()
        build(self.source, "valid", self.crop, self.image_size, self.cache)

    def pictures(self, split: str) -> Pictures:
        """The decoded pictures of a split (train, valid or test); decodes them if nobody has.

        Raises:
            OSError: the source is not there, or too many of its pictures are corrupt.
            ValueError: there is no such split.
        """
        split_number(split)
        if split not in self._pictures:
            self._pictures[split] = Pictures(build(self.source, split, self.crop, self.image_size, self.cache))
        return self._pictures[split]

    @property
    def attributes(self) -> Sequence[str]:
        """Names of the attributes that batches say of their faces; a model's recipe keeps them.

        Raises:
            OSError: the source is not there, or has no attributes.
        """
        if self.labels is None:
            return ()
        self.source.prepare()
        return self.labels.names(self.source)

    def attributes_of(self, split: str) -> Tensor | None:
        """float32 (N, attributes) of a split; None without labels."""
        return None if self.labels is None else self.labels(self.source, self.crop, self.pictures, split)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The batches that are left of the whole run; without a trainer those of the first epoch."""
        pictures = Pictures(self._built_for_training())
        start, stop = 0, len(pictures) // self.batch_size
        if self.trainer is not None:
            start = cast(CountsBatches, self.trainer.lightning_module).batches_seen
            if self.trainer.max_steps >= 0:
                stop = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        rank, world = self._place()
        batches = TrainingBatches(len(pictures), self.batch_size, self.seed, start, stop, rank, world)
        attributes = self.attributes_of("train")
        frame, window = None, self.window
        if self.jitter is not None:  # it cuts the window alone, which is faster
            frame, window = partial(self.jitter, crop=self.crop, size=self.image_size, window=window), None
        examples = TrainingExamples(pictures, self.mask, self.seed, self.flip, attributes, self.degrade, window, frame)
        return self._loader(examples, batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation pictures of this rank, each once, with masks that never change."""
        return self._evaluation("valid")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test pictures of this rank, each once, with masks that never change."""
        return self._evaluation("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Pictures are bytes until they are on the device."""
        return floats(batch)

    def _evaluation(self, split: str) -> DataLoader[Batch]:
        pictures = self.pictures(split)
        rank, world = self._place()
        batches = EvaluationBatches(len(pictures), max(1, self.batch_size // world), rank, world)
        return self._loader(EvaluationExamples(pictures, self.mask, self.attributes_of(split), self.degrade), batches)

    def _built_for_training(self) -> Path:
        """The cache of what is trained on: with a jitter, the pictures and what lies around them."""
        if self.jitter is None:
            return build(self.source, "train", self.crop, self.image_size, self.cache)
        wider, size = self.jitter.around(self.crop), self.jitter.kept(self.crop, self.image_size)
        return build(self.source, "train", wider, size, self.cache)

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, examples: Dataset[Batch], batches: Sampler[Any]) -> DataLoader[Batch]:
        return StepLoader(
            examples,
            batch_sampler=batches,
            num_workers=self.num_workers,
            worker_init_fn=_deaf,
            collate_fn=_whole,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )


def _deaf(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole process group: it is the main process that answers them.

    It ends its workers when it ends, and they end by themselves if it is gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _whole(batch: Any) -> Any:
    """The data set makes whole batches; there is nothing to collate."""
    return batch
