"""What the comparisons share: a peer at home, the same noise for both sides, networks without weights, a measure."""

import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise, repeat
from pathlib import Path
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor, nn

from diffusion_lab.diffusion.denoiser import Condition, Epsilon, LearnedRange, NetworkDenoiser, Prediction
from diffusion_lab.diffusion.process import along, eps_from_x_0
from diffusion_lab.diffusion.sampling import Constrain, Sampler, sample, unconstrained
from diffusion_lab.diffusion.schedule import NoiseSchedule
from diffusion_lab.networks.checkpoints.told import by_index

SHAPE = (2, 3, 8, 8)


@dataclass(frozen=True)
class Comparison:
    """One line of the table.

    Args:
        quantity: what is compared.
        measure: runs both, with the peer's folder first on the path; the worst difference, 0 where there is none.
        why: the reason of a difference that is to stay; "" where there should be none.
        at_most: as large a difference as the reason accounts for.
        rounding: what is no difference.
    """

    quantity: str
    measure: Callable[[], float]
    why: str = ""
    at_most: float = 0.0
    rounding: float = 1e-5


@dataclass(frozen=True)
class Peer:
    """A program beside which ours runs.

    Args:
        repository: owner/name on GitHub, or the name of an installed package.
        commit: that the figures are of; "" for a package, whose version counts.
        comparisons: in the order of the table.
        missing: modules that it imports and that nothing compared here needs; they are replaced by mocks.
        inside: the folder of the repository that its imports start from.
    """

    repository: str
    commit: str
    comparisons: Sequence[Comparison]
    missing: Sequence[str] = ()
    inside: str = ""

    @property
    def name(self) -> str:
        return self.repository.split("/")[-1]

    def found(self, peers: Path | None) -> str:
        """The commit that is checked out, or the version that is installed; "" if it is not there."""
        if self.commit:
            asked = ["git", "-C", str((peers or Path()) / self.name), "rev-parse", "HEAD"]
            return subprocess.run(asked, capture_output=True, text=True).stdout.strip() if peers else ""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(self.repository)
        except PackageNotFoundError:
            return ""


@contextmanager
def at_home(folder: Path, missing: Sequence[str]) -> Iterator[None]:
    """A peer's folder is where imports are looked for first; afterwards its modules are forgotten.

    Five peers call their package guided_diffusion. What a peer imports only for training, plots or clusters (mpi4py,
    blobfile, matplotlib, ...) is a mock meanwhile.
    """
    mocks = {name: MagicMock() for name in missing if name not in sys.modules}
    sys.modules.update(mocks)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        # Some modules make up any attribute that they are asked for.
        places = {name: [vars(m).get("__file__"), *vars(m).get("__path__", ())] for name, m in sys.modules.items()}
        theirs = {name for name, found in places.items() if any(str(place).startswith(str(folder)) for place in found)}
        for name in theirs | mocks.keys():
            del sys.modules[name]


@contextmanager
def cpu_for_cuda() -> Iterator[None]:
    """Lets code run that sends every step to a GPU by name."""
    send = torch.Tensor.to

    def stay(x: Tensor, *where: object, **options: object) -> Tensor:
        return x if where == ("cuda",) else send(x, *where, **options)

    with patch.object(torch.Tensor, "to", stay):
        yield


class Draws:
    """Noise by name: the n-th draw of a name is the same for whoever asks, whatever else is drawn in between.

    Args:
        names: of the draws to come, in the order in which this side asks for them.
        given: draws that are no chance.
        shape: of a draw.
        dtype: of a draw.
    """

    def __init__(
        self,
        names: Iterable[str] = repeat("z"),
        given: Mapping[str, Tensor] | None = None,
        shape: Sequence[int] = SHAPE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.names = iter(names)
        self.given = given or {}
        self.shape = tuple(shape)
        self.dtype = dtype
        self.counts: Counter[str] = Counter()

    def __call__(self, *_: object, **__: object) -> Tensor:
        name = next(self.names)
        if name in self.given:
            return self.given[name]
        self.counts[name] += 1
        seed = zlib.crc32(f"{name} {self.counts[name]}".encode())
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
            self.dtype
        )


@contextmanager
def drawing(draws: Draws) -> Iterator[None]:
    """What a peer draws by torch.randn_like or torch.randn is ours to say."""
    genuine = torch.randn

    def randn(*shape: object, **options: object) -> Tensor:
        return genuine(*shape, **options) if "generator" in options else draws()

    with patch.object(torch, "randn_like", draws), patch.object(torch, "randn", randn):
        yield


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    ours, theirs = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
    if ours.shape != theirs.shape:
        raise ValueError(f"{tuple(ours.shape)} beside {tuple(theirs.shape)}")
    return float((ours - theirs).abs().max() / theirs.abs().max())


def each(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, each as a share of its own value."""
    ours, theirs = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours.flatten())} values beside {len(theirs.flatten())}")
    return float(torch.where(ours == theirs, 0, (ours - theirs).abs() / theirs.abs()).max())


def random_picture(seed: int, shape: Sequence[int] = SHAPE) -> Tensor:
    """8-bit values in [-1, 1]."""
    values = torch.randint(0, 256, tuple(shape), generator=torch.Generator().manual_seed(seed))
    return values / 127.5 - 1


def middle(shape: Sequence[int] = SHAPE) -> Tensor:
    """``(B, 1, H, W)`` bool: a hole that is a quarter of the picture."""
    mask = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.bool)
    mask[..., shape[2] // 4 : -(shape[2] // 4), shape[3] // 4 : -(shape[3] // 4)] = True
    return mask


def denoised(x: Tensor, level: Tensor) -> Tensor:
    """An x_0 as a trained network might see it, smooth and not linear in x; about a tenth of it lies beyond [-1, 1]."""
    variance = 0.36
    signal, sigma, noise, total = along(x, level.sqrt(), (1 - level).sqrt(), 1 - level, level * variance + 1 - level)
    # Every pixel looks at others, so that what happens to known pixels is seen in the hole.
    bent = 0.3 * sigma * torch.sin(2 * x.roll(3, -1)) + 0.2 * noise * torch.cos(3 * x.roll(2, -2))
    return signal * variance / total * x + bent


def seen(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
    """`denoised` as a Denoiser."""
    x_0 = denoised(x, level)
    return Prediction(x_0, eps_from_x_0(x, x_0, level))


class Network(nn.Module):
    """`denoised` as a network that is told t - 1, predicts eps and, with `learned`, a variance.

    It takes guided-diffusion's calls (x, t, whatever) and ours (x, condition channels, t, attributes) alike.
    """

    condition_channels = 0

    def __init__(self, alpha_bar: Tensor, learned: bool = False) -> None:
        super().__init__()
        self.alpha_bar = alpha_bar
        self.learned = learned

    def forward(self, x: Tensor, *told: Tensor, **_: object) -> Tensor:
        time = told[0] if len(told) == 1 else told[1]
        eps = seen(x, self.alpha_bar[time.round().long() + 1], Condition()).eps
        return torch.cat([eps, torch.sin(3 * x + time.to(x).reshape(-1, 1, 1, 1))], dim=1) if self.learned else eps


def ours(schedule: NoiseSchedule, learned: bool = False) -> NetworkDenoiser:
    """Our denoiser around `Network`."""
    reads = LearnedRange(Epsilon()) if learned else Epsilon()
    return NetworkDenoiser(Network(schedule.alpha_bar, learned), schedule, reads, by_index)


def walk(
    denoiser: object,
    sampler: Sampler,
    levels: Tensor,
    x_T: Tensor,
    draws: Draws,
    condition: Condition | None = None,
    constrain: Constrain = unconstrained,
) -> Tensor:
    """Our sampler's x at the end of the given levels, whatever path it takes by itself."""
    fixed = replace(sampler, path=lambda trained_on: levels)
    schedule = NoiseSchedule(torch.tensor([1.0, 0.5], dtype=torch.float64))  # of which only the path would ask
    return sample(denoiser, fixed, schedule, x_T, condition or Condition(), draws, constrain)


def our_names(levels: Tensor, start: str = "", step: str = "z", kept: str = "", rise: str = "u") -> Iterator[str]:
    """The draws of one of our samplers on its way: of its start, each step, what it keeps, each rise.

    What is kept before a further rise is overwritten there, so that nobody else draws it.
    """
    if start:
        yield start
    pairs = [*pairwise(levels.tolist()), (1.0, 2.0)]
    for (level, reached), (_, after) in pairwise(pairs):
        yield from [rise] if reached < level else [step] if reached < 1 else []
        if kept:
            yield kept if after >= reached and reached < 1 else "unused"


def merged(levels: Tensor) -> Tensor:
    """A path whose rises are walked in one go, as ours are: several rises by the forward process are one."""
    falls = levels.diff() < 0
    within = torch.cat([torch.tensor([False]), falls[:-1] & falls[1:], torch.tensor([False])])
    return levels[~within]


def levels_of(alphas_cumprod: object, times: Iterable[int]) -> Tensor:
    """Levels of a peer's t, which counts from 0; -1 is the picture."""
    table = [1.0, *torch.as_tensor(alphas_cumprod).double().tolist()]
    return torch.tensor([table[t + 1] for t in times], dtype=torch.float64)
