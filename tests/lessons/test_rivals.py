"""What the lesson says of a GAN, a VAE and a flow rests on their equations, not on how they were trained."""

import math
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from diffusion_lab.lessons.data import ring, ring_bits, rings
from diffusion_lab.lessons.rivals import GAN, MODELS, MODES, NOISE, VAE, Flow, counted, fit, main, span


def seeded(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return Generator().manual_seed(seed)


def plane(reach: float, pieces: int) -> tuple[Tensor, float]:
    """Points of a square, and the area of each."""
    axis = (torch.arange(pieces) + 0.5) / pieces * 2 * reach - reach
    return torch.cartesian_prod(axis, axis), (2 * reach / pieces) ** 2


def test_the_ring_has_mean_square_1_and_a_density() -> None:
    points = rings(200_000, seeded())
    assert points.square().mean().item() == pytest.approx(1, abs=0.01)
    everywhere, area = plane(2.0, 400)
    assert float((2 ** -ring_bits(everywhere)).sum()) * area == pytest.approx(1, abs=1e-3)
    entropy = math.log2(MODES) + math.log2(2 * math.pi * math.e * NOISE**2)
    assert ring_bits(points).mean().item() == pytest.approx(entropy, abs=0.02)


def test_modes_and_what_lies_between_are_counted() -> None:
    points = rings(20_000, seeded())
    modes, between = counted(points)
    assert modes == MODES
    assert between == pytest.approx(math.exp(-8), abs=3e-4)  # beyond four deviations of a plane's Gaussian
    centres = ring(MODES, NOISE)
    some = centres[:3].repeat_interleave(10, dim=0)
    assert counted(torch.cat([some, torch.zeros(10, 2)])) == (3, 0.25)
    assert counted(torch.cat([centres[:1].expand(395, 2), centres[1:2].expand(5, 2)])) == (
        1,
        0,
    )  # too few of the second


def test_a_flow_goes_back_where_it_came_from_and_knows_its_density() -> None:
    generator = seeded()
    flow = Flow(width=16, couplings=5).double()
    code = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    point = flow.point(code)
    back, log_det = flow.code(point)
    torch.testing.assert_close(back, code)
    for i in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda x: flow.code(x[None])[0][0], point[i])
        assert log_det[i].item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item())
    everywhere, area = plane(8.0, 400)
    with torch.no_grad():
        mass = float((2 ** -flow.bits(everywhere.double(), generator)).sum()) * area
    assert mass == pytest.approx(1, abs=1e-2)


def test_a_vaes_bound_is_above_what_integration_says() -> None:
    """p(x) is an integral over a code of two numbers; what the bound adds is the encoder's error, never negative."""
    generator = seeded()
    vae = VAE(width=8)
    torch.nn.init.zeros_(vae.log_variance)  # so wide that the integral needs no finer grid
    x = torch.randn(5, 2, generator=generator)
    codes, area = plane(6.0, 200)
    prior = torch.exp(-0.5 * codes.square().sum(1)) / (2 * math.pi) * area
    with torch.no_grad():
        apart = (x[:, None] - vae.decoder(codes)).square() * torch.exp(-vae.log_variance)
        density = torch.exp(-0.5 * (apart + vae.log_variance).sum(2)) / (2 * math.pi)
        exact = -torch.log2((density * prior).sum(1))
        bound = torch.stack([vae.bits(x, generator) for _ in range(4000)]).mean(0)
    assert bool((bound > exact).all())
    # Of a decoder that says nothing the posterior is the prior, and an encoder that says so makes the bound exact.
    for part in (vae.encoder[-1], vae.decoder[-1]):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    exact = (0.5 * x.square().sum(1) + math.log(2 * math.pi)) / math.log(2)
    torch.testing.assert_close(vae.bits(x, generator), exact)


def test_neither_player_of_a_gan_hears_the_others_loss() -> None:
    x = rings(16, seeded())
    gan = GAN(width=8)
    gan.loss(x, Generator().manual_seed(1)).backward()
    together = {name: p.grad.clone() for name, p in gan.named_parameters() if p.grad is not None}
    drawn = gan.draw(16, Generator().manual_seed(1))
    fooled = -torch.log(torch.sigmoid(gan.critic(drawn))).mean()
    told = -torch.log(torch.sigmoid(gan.critic(x))) - torch.log(1 - torch.sigmoid(gan.critic(drawn)))
    for loss, part in ((fooled, "generator"), (told.mean(), "critic")):
        own = {name: p for name, p in gan.named_parameters() if name.startswith(part)}
        for (name, _), alone in zip(
            own.items(), torch.autograd.grad(loss, list(own.values()), retain_graph=True), strict=True
        ):
            torch.testing.assert_close(together[name], alone)


@pytest.mark.parametrize("name", MODELS)
def test_each_learns_where_the_data_are(name: str) -> None:
    generator = seeded()
    model, points = MODELS[name](), 3 + 0.1 * rings(2000, generator)
    with torch.no_grad():
        before = (model.draw(200, generator) - 3).norm(dim=1).mean()
    fit(model, points, 150, generator, batch=64)
    with torch.no_grad():
        after = (model.draw(200, generator) - 3).norm(dim=1).mean()
    assert after < before / 2


def test_the_command_draws_and_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--steps=2", "--seeds=2", "--draws=50", f"--output={tmp_path}/why.png"])
    assert (tmp_path / "why.png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert all(name in out for name in MODELS)


def test_a_span_is_one_number_where_the_ends_agree() -> None:
    assert span([0.301, 0.204], ".2f") == "0.20 to 0.30"
    assert span([8, 8], "d") == "8"
