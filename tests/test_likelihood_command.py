"""Bits per dimension over a split: of data whose likelihood is known, and by the command."""

import copy
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from scipy.stats import norm
from torch import Tensor, nn

from diffusion_lab import recipe
from diffusion_lab.data.masks import center, everything
from diffusion_lab.diffusion.denoiser import Data, NetworkDenoiser
from diffusion_lab.diffusion.paths import uniform_path
from diffusion_lab.diffusion.samplers import ddim
from diffusion_lab.diffusion.schedule import linear
from diffusion_lab.evaluation.likelihood import Bits, measure
from diffusion_lab.inpainting import Inpainter

CONF = Path(__file__).parents[1] / "conf"
MU, C, SIZE = 0.1, 0.3, 8
MASKS = {"whole": everything, "center": center}
RunScript = Callable[..., tuple[int, str, str]]


class Independent:
    """Pictures whose pixels are independent: 8-bit values of N(mu, c^2), or one such value for the whole picture."""

    digest = "independent"

    def __init__(self, n: int, equal: bool = False) -> None:
        values = np.random.default_rng(0).normal(MU, C, (n, 1, 1, 1) if equal else (n, 3, SIZE, SIZE))
        pixels = torch.from_numpy(((values + 1) * 127.5).round().clip(0, 255)).to(torch.uint8)
        self.images = pixels.expand(n, 3, SIZE, SIZE)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor | list[int]) -> Tensor:
        return self.images[torch.as_tensor(indices)]


def entropy() -> float:
    """Of an 8-bit value, in bits: what no bound can be below on average."""
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    p = np.diff(norm.cdf(edges, MU, C))
    return float(-(p * np.log2(p)).sum())


class Optimal(nn.Module):
    """A trained network: E[x_0 | x] of independent pixels, or a copy of a known one, right where all are equal."""

    def __init__(self, condition_channels: int, copies: bool = False) -> None:
        super().__init__()
        self.condition_channels = condition_channels
        self.copies = copies

    def forward(self, x: Tensor, condition: Tensor, level: Tensor, attributes: Tensor | None) -> Tensor:
        if self.copies:
            return condition[:, :, :1, :1].expand_as(x)
        gamma = level.reshape(-1, 1, 1, 1)
        return MU + gamma.sqrt() * C**2 / (gamma * C**2 + 1 - gamma) * (x - gamma.sqrt() * MU)


def model(condition_channels: int = 3, copies: bool = False) -> Inpainter:
    network = Optimal(condition_channels, copies)
    return Inpainter(NetworkDenoiser(network, linear(), Data(), told=lambda schedule, level: level), ddim())


def measured(inpainter: Inpainter, pictures: Independent, steps: int = 100, **options: object) -> Bits:
    settings = {"masks": MASKS, "variance_mix": 1.0, **options}
    return measure(inpainter, pictures, path=partial(uniform_path, steps=steps), **settings)  # type: ignore[arg-type]


def test_the_bound_of_independent_pixels_is_above_their_entropy_and_near_it_given_the_rest_or_not() -> None:
    bits = measured(model(), Independent(48), steps=300)
    for row in bits.rows:
        assert entropy() - 4 * row["standard_error"] < row["bits_per_dim"] < entropy() + 0.2
        assert row["bits_per_dim"] == pytest.approx(sum(row[term] for term in ("prior", "steps", "decoder")))
        assert row["n"] == 48
    whole, hole = bits.rows
    assert (whole["hole"], hole["hole"]) == (1.0, 0.25)
    # Independent pixels tell nothing of each other.
    error = math.hypot(whole["standard_error"], hole["standard_error"])
    assert whole["bits_per_dim"] == pytest.approx(hole["bits_per_dim"], abs=4 * error)


def test_what_the_rest_tells_is_not_paid_for() -> None:
    """Of pictures of one value, a model that copies a known pixel pays for the last step's rounding alone."""
    pictures = Independent(8, equal=True)
    copies, blind = (
        measured(inpainter, pictures, masks={"center": center}, variance_mix=0.0).rows[0]
        for inpainter in (model(copies=True), model())
    )
    first, second = linear().alpha_bar[[10, 20]].tolist()
    precision = 1 / (1 - first) + (second / first) / (1 - second / first)  # q(x_10 | x_20, x_0), by Bayes' rule
    deviation = precision**-0.5
    assert copies["steps"] == pytest.approx(0, abs=1e-5)
    assert copies["decoder"] == pytest.approx(-math.log2(2 * norm.cdf(1 / 255 / deviation) - 1), rel=1e-4)
    assert copies["bits_per_dim"] < entropy() < blind["bits_per_dim"]


def test_more_steps_bound_more_tightly() -> None:
    found = [measured(model(), Independent(16), steps=steps).rows[0]["bits_per_dim"] for steps in (10, 50, 250)]
    assert found[0] > found[1] > found[2]


def test_the_steps_by_level_add_up() -> None:
    bits = measured(model(), Independent(5), steps=20)
    assert len(bits.by_level["level"]) == 19
    assert bits.by_level["level"] == sorted(bits.by_level["level"])
    for row in bits.rows:
        assert sum(bits.by_level[row["mask"]]) == pytest.approx(row["steps"])


def test_neither_batches_nor_devices_change_it() -> None:
    class OneOfTwo:
        """A rank that sees its own share of the sums."""

        world_size, device, is_global_zero = 2, torch.device("cpu"), False

        def __init__(self, rank: int) -> None:
            self.global_rank = rank

        def all_reduce(self, values: Tensor, reduce_op: str) -> Tensor:
            return values

    pictures = Independent(5)
    one = measured(model(), pictures, steps=10)
    parts = [measured(model(), pictures, steps=10, batch_size=2, fabric=OneOfTwo(rank)) for rank in (0, 1)]
    for i, row in enumerate(one.rows):
        for term in ("hole", "prior", "steps", "decoder"):
            assert sum(part.rows[i][term] for part in parts) == pytest.approx(row[term], rel=1e-5)


def test_an_unconditional_model_is_refused_for_a_part_and_measured_whole() -> None:
    pictures = Independent(2)
    with pytest.raises(ValueError, match=r"is no bound on the hole given the rest: .* ~masks.center, or train"):
        measured(model(condition_channels=0), pictures)
    blind = measured(model(condition_channels=0), pictures, masks={"whole": everything})
    seeing = measured(model(), pictures, masks={"whole": everything})
    assert blind.rows == seeing.rows


@pytest.mark.parametrize("count", [0, 3])
def test_a_number_of_pictures_that_is_not_there_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"cannot measure {count} pictures, this split has 2"):
        measured(model(), Independent(2), num_images=count)


def test_a_picture_without_hole_is_named() -> None:
    def no_hole(size: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(1, size, size, dtype=torch.bool)

    with pytest.raises(ValueError, match="the mask 'none' leaves picture 0 without a hole"):
        measured(model(), Independent(2), masks={"none": no_hole})


def test_the_command(inpainter: Inpainter, faces: Path, tmp_path: Path, run_script: RunScript) -> None:
    run = tmp_path / "a run, é=[1]"
    inpainter.recipe["data"] = {"name": "toy", "crop": "center148", "image_size": 16}
    inpainter.save(run / "inpainter")
    settings = [
        "data=celeba",
        f"data.root={faces}",
        f"paths.cache={tmp_path / 'cache'}",
        "steps=3",
        "num_images=2",
        "accelerator=cpu",
    ]
    code, out, err = run_script("likelihood.py", f"inpainter={run / 'inpainter'}", *settings)
    assert code == 0, err
    assert "bits/dim" in out
    found = json.loads((run / "evaluation" / "likelihood.json").read_text())
    assert [row["mask"] for row in found["rows"]] == ["whole", "center", "half"]
    assert [row["hole"] for row in found["rows"]] == [1.0, 0.25, 0.5]
    facts = found["protocol"]
    assert (facts["data"], facts["crop"], facts["split"], facts["n"]) == ("CelebA", "center148", "test", 2)
    assert facts["path"]["steps"] == facts["network_calls"] == 3

    blind = copy.deepcopy(inpainter.recipe)
    blind["model"]["denoiser"]["network"]["condition_channels"] = 0
    unconditional = recipe.build(blind["model"])
    unconditional.recipe = blind
    unconditional.save(tmp_path / "blind")
    code, out, err = run_script("likelihood.py", f"inpainter={tmp_path / 'blind'}", *settings)
    assert code == 1
    assert err.startswith("error: this model was trained without known pixels")
    assert len(err.splitlines()) == 1
    output = tmp_path / "measured"
    whole = ["~masks.center", "~masks.half", f"output={output}"]
    code, out, err = run_script("likelihood.py", f"inpainter={tmp_path / 'blind'}", *settings, *whole)
    assert code == 0, err
    assert [row["mask"] for row in json.loads((output / "likelihood.json").read_text())["rows"]] == ["whole"]


def test_nothing_is_missing_in_the_config() -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert OmegaConf.missing_keys(compose("likelihood")) == set()
