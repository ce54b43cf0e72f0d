import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_prc import calculate_precision_recall_full

from diffusion_lab.metrics import precision_recall
from features import waves


def figures(real: Tensor, fake: Tensor, **options: int) -> dict[str, float]:
    return {name: values.mean().item() for name, values in precision_recall(real, fake, True, **options).items()}


def test_agrees_with_prdc() -> None:
    """What the authors' package `prdc` 0.2 says of the same features."""
    assert figures(*waves(), neighbours=3, around=3) == pytest.approx(
        {"precision": 28 / 60, "recall": 58 / 60, "density": 37 / 180, "coverage": 14 / 60}
    )
    assert figures(*waves(), neighbours=5, around=5) == pytest.approx(
        {"precision": 53 / 60, "recall": 1.0, "density": 0.58, "coverage": 53 / 60}
    )
    # By default k is that of the papers: 3 of Kynkaanniemi et al., 5 of Naeem et al.
    assert figures(*waves()) == pytest.approx(
        {"precision": 28 / 60, "recall": 58 / 60, "density": 0.58, "coverage": 53 / 60}
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_torch_fidelity(k: int) -> None:
    real, fake = (torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in (150, 90))
    precision, recall = calculate_precision_recall_full(fake * 0.8, real, neighborhood=k)
    found = precision_recall(real, fake * 0.8, neighbours=k)
    assert found["precision"].mean().item() == pytest.approx(precision)
    assert found["recall"].item() == pytest.approx(recall)
    assert found["density"].shape == (90,)


def test_on_a_line() -> None:
    """Real pictures at 0, 1, 2, 10; balls to the first neighbour reach 1, 1, 1 and 8."""
    real, fake = torch.tensor([[0.0], [1.0], [2.0], [10.0]]), torch.tensor([[0.4], [2.5], [18.5], [30.0]])
    found = precision_recall(real, fake, paired=True, neighbours=1, around=1)
    assert found["precision"].tolist() == [1, 1, 0, 0]
    assert found["density"].tolist() == [2, 2, 0, 0]  # 2.5 lies in the balls of 2 and of 10
    assert found["coverage"].tolist() == [1, 1, 1, 1]  # 2.5 covers 10
    assert found["recall"].tolist() == [1, 1, 1, 1]  # the balls of 0.4 and 2.5 reach 2.1, that of 18.5 reaches 11.5


def test_a_ball_holds_its_border() -> None:
    """Kynkaanniemi et al. (2019), eq. 1: no further than the neighbour. All distances are whole numbers here."""
    real, fake = torch.tensor([[0.0], [2.0], [10.0]]), torch.tensor([[-2.0], [18.0], [21.0]])
    found = precision_recall(real, fake, paired=True, neighbours=1, around=1)  # real balls reach 2, 2 and 8
    assert found["precision"].tolist() == [1, 1, 0]  # at -2 and 18: the ends of two balls
    assert found["density"].tolist() == [1, 1, 0]
    assert found["coverage"].tolist() == [1, 0, 1]
    real, fake = torch.tensor([[-3.0], [197.0], [198.0]]), torch.tensor([[0.0], [3.0], [100.0]])  # reach 3, 3 and 97
    assert precision_recall(real, fake, paired=True, neighbours=1, around=1)["recall"].tolist() == [1, 1, 0]


def test_the_order_and_the_number_of_blocks_do_not_matter() -> None:
    real, fake = (torch.randn(1500, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found, turned = (figures(x, y) for x, y in ((real, fake), (real.flip(0), fake.flip(0))))
    assert found == pytest.approx(turned)


def test_too_few_pictures_have_none() -> None:
    assert all(values.isnan() for values in precision_recall(torch.ones(5, 2), torch.ones(9, 2)).values())
    assert all(not values.isnan().any() for values in precision_recall(torch.ones(6, 2), torch.ones(9, 2)).values())
