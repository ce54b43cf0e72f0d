"""FID as a torchmetrics Metric that is exact on several devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import Metric

from diffusion_lab.frechet import (
    frechet_distance,
    frechet_distance_from_moments,
    frechet_distance_mixed,
    moments,
)


class FrechetDistance(Metric):
    """The Frechet distance between real and fake pictures: float64 (), 0 for the same set, lower is better.

    Its estimate falls with the number of pictures, strongly below 10,000: compare figures of the same n only.

    Features (N, d) are kept of up to d pictures a set, 2048 for Inception; of more, their sums, which are no larger.
    Several devices reduce sums instead of stacking them, every picture counts once, and the first rank alone takes the
    roots.

    Args:
        extractor: maps uint8 (N, 3, H, W) to features (N, d), such as `diffusion_lab.metrics.inception`.
        keep_real: whether `reset` keeps the real pictures, for many sets of fakes against one set of real ones.
        process_group: the ranks that share the pictures; None is all of them.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    real_features: list[Tensor]
    fake_features: list[Tensor]
    real_moments: list[Tensor]
    fake_moments: list[Tensor]

    def __init__(
        self,
        extractor: nn.Module | Callable[[Tensor], Tensor],
        keep_real: bool = False,
        process_group: dist.ProcessGroup | None = None,
    ):
        super().__init__(process_group=process_group)
        self.extractor = extractor
        self.keep_real = keep_real
        for name in ("real_features", "fake_features", "real_moments", "fake_moments"):
            self.add_state(name, default=[], dist_reduce_fx=None)  # reduced in _sync_dist, whatever is said here

    def update(self, images: Tensor, real: bool) -> None:
        """Add pictures, uint8 (N, 3, H, W), to the real or the fake side."""
        self.add_features(self.extractor(images), real)

    def add_features(self, features: Tensor, real: bool) -> None:
        """Add features (N, d) that are there already, such as those of a cache."""
        if not features.isfinite().all():
            raise ValueError("The extractor returned features that are not finite; look at the pictures it was given.")
        device = torch.device("cpu") if features.device.type == "mps" else features.device  # MPS has no float64
        kept, sums = self._side(real)
        kept.append(features.detach().to(device).double())
        if sums or sum(len(x) for x in kept) > features.shape[1]:
            _fold(kept, sums)
        self._computed = None
        self._update_count += 1

    def compute(self) -> Tensor:
        """The distance over all devices, the same number on each; NaN with fewer than two pictures on a side."""
        value = torch.full((), torch.nan, dtype=torch.float64)
        alone = not self._is_synced
        if alone or dist.get_rank(self.process_group) == 0:
            value = self._distance().cpu()
        if alone:
            return value
        shared = [value]
        source = dist.get_global_rank(self.process_group, 0) if self.process_group is not None else 0
        dist.broadcast_object_list(shared, src=source, group=self.process_group, device=self.device)
        return shared[0]

    def reset(self) -> None:
        """Forget the fake pictures, and the real ones unless `keep_real`."""
        real = list(self.real_features), list(self.real_moments)  # torchmetrics empties the lists themselves
        super().reset()
        if self.keep_real:
            self.real_features, self.real_moments = real

    def side(self, real: bool) -> tuple[Tensor | None, Tensor | None]:
        """What is held of one side: its features (n, d) or its moments (d + 1, d + 1), both None if empty."""
        kept, sums = self._side(real)
        return (torch.cat(kept) if kept else None, sums[0] if sums else None)

    def _side(self, real: bool) -> tuple[list[Tensor], list[Tensor]]:
        return (self.real_features, self.real_moments) if real else (self.fake_features, self.fake_moments)

    def _distance(self) -> Tensor:
        (real, real_sums), (fake, fake_sums) = self.side(real=True), self.side(real=False)
        for features, sums in ((real, real_sums), (fake, fake_sums)):
            if (0 if features is None else len(features)) + (0 if sums is None else int(sums[0, 0])) < 2:
                return torch.full((), torch.nan, dtype=torch.float64)
        if real is not None and fake is not None:
            return frechet_distance(real, fake)
        if real is not None and fake_sums is not None:
            return frechet_distance_mixed(real, fake_sums)
        if fake is not None and real_sums is not None:
            return frechet_distance_mixed(fake, real_sums)
        assert real_sums is not None
        assert fake_sums is not None
        return frechet_distance_from_moments(real_sums, fake_sums)

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] | None = None, process_group: Any | None = None) -> None:
        """Join what the ranks hold; torchmetrics would gather and stack all matrices, gigabytes on many ranks."""
        group = process_group or self.process_group
        for real in (True, False):
            kept, sums = self._side(real)
            joined = _joined(kept, sums, torch.device("cpu") if self.device.type == "mps" else self.device, group)
            if real:
                self.real_features, self.real_moments = joined
            else:
                self.fake_features, self.fake_moments = joined


def _fold(kept: list[Tensor], sums: list[Tensor]) -> None:
    """Turn kept features into sums, in place."""
    parts = [*sums, *([moments(torch.cat(kept))] if kept else [])]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    kept.clear()
    sums[:] = [total]


def _joined(
    kept: list[Tensor], sums: list[Tensor], device: torch.device, group: Any | None
) -> tuple[list[Tensor], list[Tensor]]:
    """One side of all ranks: all features in rank order while they are few, else the reduced sums."""
    count = sum(len(x) for x in kept)
    width = kept[0].shape[1] if kept else sums[0].shape[0] - 1 if sums else 0
    mine = torch.tensor([count, width, len(sums)], device=device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, mine, group=group)
    counts, widths, summed = torch.stack(everyone).T.tolist()
    width = max(widths)
    if width == 0:
        return [], []
    if sum(counts) <= width and not any(summed):
        local = torch.cat(kept) if kept else torch.zeros(0, width, dtype=torch.float64, device=device)
        padded = torch.zeros(max(counts), width, dtype=torch.float64, device=device)
        padded[:count] = local
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded, group=group)
        return [torch.cat([x[:n] for x, n in zip(gathered, counts, strict=True)])], []
    total = torch.zeros(width + 1, width + 1, dtype=torch.float64, device=device)
    for part in [*sums, *([moments(torch.cat(kept))] if kept else [])]:
        total += part
    dist.all_reduce(total, group=group)
    return [], [total]
