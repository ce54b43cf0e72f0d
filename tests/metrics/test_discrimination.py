import pytest
import torch
from scipy.optimize import minimize

from diffusion_lab.metrics import inception_discriminative_score
from diffusion_lab.metrics.discrimination import support_vectors
from features import waves


def test_the_plane_is_scikit_learns() -> None:
    """`LinearSVC(dual=False, tol=1e-12)` of scikit-learn 1.9.1 on the same features."""
    real, fake = waves()
    plane = support_vectors(torch.cat([real, fake]), torch.cat([torch.ones(60), -torch.ones(60)]))
    theirs = [-0.18571568, -0.09821093, -0.05857032, 0.15481238, -0.24693255, 0.06975066]
    assert plane.tolist() == pytest.approx(theirs, abs=1e-7)
    scores = inception_discriminative_score(real, fake, paired=True)
    assert {name: values.mean().item() for name, values in scores.items()} == pytest.approx(
        {"p_ids": 0.3, "u_ids": 1 / 3}
    )


@pytest.mark.parametrize("penalty", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("shift", [0.0, 0.5, 5.0])  # alike, apart, separable
def test_no_other_plane_costs_less(shift: float, penalty: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    signs = torch.cat([torch.ones(100), -torch.ones(100)]).double()
    x = x + shift * signs[:, None]
    augmented = torch.cat([x, torch.ones(200, 1)], dim=1) * signs[:, None]

    def cost(w):
        margins = (1 - augmented @ torch.as_tensor(w)).clamp(min=0)
        return float((torch.as_tensor(w) @ torch.as_tensor(w)) / 2 + penalty * margins.square().sum())

    plane = support_vectors(x, signs, penalty)
    found = minimize(cost, torch.zeros(7).double().numpy(), method="BFGS", options={"gtol": 1e-6})
    assert cost(plane) <= found.fun + 1e-9
    assert plane.tolist() == pytest.approx(found.x.tolist(), abs=1e-4)


def test_sets_that_are_alike_and_sets_that_are_apart() -> None:
    real, other = (torch.randn(400, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    alike = inception_discriminative_score(real, other, paired=True)
    assert all(0.4 < values.mean() < 0.6 for values in alike.values())
    apart = inception_discriminative_score(real, other + 10, paired=True)
    assert all(values.mean() == 0 for values in apart.values())


def test_newtons_method_does_not_go_round_in_circles() -> None:
    """Whole steps do, on these seven pictures. The gradient vanishes at the minimum and nowhere else."""
    x = torch.tensor([[-2, 0], [3, 5], [-1, 1], [-5, 1], [2, -1], [-2, -4], [-5, -4]]).double()
    signs = torch.tensor([1, -1, -1, 1, -1, -1, 1]).double()
    plane = support_vectors(x, signs, penalty=10.0, rounds=6).requires_grad_()
    margins = (1 - signs * (x @ plane[:-1] + plane[-1])).clamp(min=0)
    (plane.square().sum() / 2 + 10 * margins.square().sum()).backward()
    assert plane.grad.norm() < 1e-8


def test_the_very_same_pictures_are_told_apart_by_nobody() -> None:
    """Half of them are taken for the other kind; none is more real than itself, as the authors' code counts."""
    real = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    scores = inception_discriminative_score(real, real, paired=True)
    assert scores["u_ids"].tolist() == [0.5] * 40
    assert scores["p_ids"].tolist() == [0] * 40


def test_twice_as_many_pictures_as_features_are_enough() -> None:
    """Or as many as are asked for."""
    real, fake = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    assert inception_discriminative_score(real, fake, paired=True)["u_ids"].shape == (8,)
    assert inception_discriminative_score(real, fake, paired=True, least=9)["u_ids"].isnan()
    assert inception_discriminative_score(real[:5], fake[:5], paired=True, least=5)["u_ids"].shape == (5,)


def test_few_or_unpaired_pictures_have_none() -> None:
    assert inception_discriminative_score(torch.ones(7, 4), torch.ones(7, 4), paired=True)["p_ids"].isnan()
    assert inception_discriminative_score(torch.ones(9, 4), torch.ones(9, 4))["u_ids"].isnan()
