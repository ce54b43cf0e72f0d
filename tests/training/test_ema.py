import pytest
import torch
from torch import nn

from diffusion_lab.training.ema import ExponentialAverage


def walk(model: nn.Linear, average: ExponentialAverage, steps: int) -> list[float]:
    values = [model.weight.item()]
    for step in range(steps):
        nn.init.constant_(model.weight, float(step + 1))
        average.update()
        values.append(model.weight.item())
    return values


def test_average_is_the_weighted_sum_written_out() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = ExponentialAverage(model, decay=0.9)
    values = walk(model, average, 200)
    expected = values[0]
    for n, value in enumerate(values[1:]):
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    assert average.average[0].item() == pytest.approx(expected, rel=1e-5)


def test_an_error_inside_leaves_the_raw_weights() -> None:
    model = nn.Linear(3, 3)
    average = ExponentialAverage(model, decay=0.5)
    nn.init.zeros_(model.weight)
    average.update()
    raw, averaged = model.weight.clone(), average.average[0].clone()

    def validate() -> None:
        with average.applied():
            assert torch.equal(model.weight, averaged)
            raise RuntimeError("validation broke")

    with pytest.raises(RuntimeError, match="validation broke"):
        validate()
    assert torch.equal(model.weight, raw)
    assert torch.equal(average.average[0], averaged)


def test_state_goes_on_where_it_was() -> None:
    model, twin = nn.Linear(2, 2), nn.Linear(2, 2)
    average = ExponentialAverage(model, decay=0.99)
    average.update()
    twin.load_state_dict(model.state_dict())
    again = ExponentialAverage(twin, decay=0.99)
    again.load_state_dict(average.state_dict())
    for net, ema in ((model, average), (twin, again)):
        nn.init.ones_(net.weight)
        ema.update()
    assert all(torch.equal(a, b) for a, b in zip(average.average, again.average, strict=True))
    assert again.updates == average.updates


def test_a_state_of_another_model_is_refused() -> None:
    average = ExponentialAverage(nn.Linear(2, 2), decay=0.9)
    with pytest.raises(ValueError, match="of another model"):
        average.load_state_dict({"updates": 1})


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_the_unit_interval_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=str(decay)):
        ExponentialAverage(nn.Linear(1, 1), decay)
