"""How often a classifier of noisy faces is right, at every level of noise."""

from pathlib import Path

import torch

from diffusion_lab.charts import chart
from diffusion_lab.classifying import AttributeClassifier
from diffusion_lab.data.datamodule import FaceData
from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.diffusion.process import add_noise
from diffusion_lab.pictures import save_png, to_float


@torch.no_grad()
def look(
    model: AttributeClassifier, data: FaceData, path: Path, measured: int = 200, levels: int = 11
) -> dict[str, float]:
    """Measures the accuracy on validation pictures, and draws it over the levels.

    Args:
        model: with the weights to be looked at.
        data: whose validation pictures are taken, with their attributes.
        path: of the picture.
        measured: number of pictures.
        levels: at how many levels, evenly spread over t.

    Returns:
        "accuracy", the mean over all levels and attributes, and "accuracy_clean", that of pictures without noise.
    """
    attributes = data.attributes_of("valid")
    assert attributes is not None
    device = next(model.parameters()).device
    truth = attributes[:measured] > 0.5
    x_0 = to_float(data.pictures("valid")[torch.arange(len(truth))]).to(device)
    noise = ExampleNoise(torch.arange(len(truth)), x_0.shape[1:], device)
    schedule = model.denoiser.schedule
    times = torch.linspace(0, schedule.steps, levels, dtype=torch.float64)
    right = []
    for level in schedule.level(times):
        at = level.expand(len(truth))
        chance = model(add_noise(x_0, noise(), at), at).cpu()
        right.append(((chance > 0.5) == truth).double().mean(dim=0))
    shares = torch.stack(right)  # (levels, attributes)
    lines = {
        name: list(zip((times / schedule.steps).tolist(), column.tolist(), strict=True))
        for name, column in zip(data.attributes, shares.unbind(1), strict=True)
    }
    save_png(chart(lines, "t / T", "share of faces that are classified rightly", y_range=(0.4, 1.0)), path)
    return {"accuracy": float(shares.mean()), "accuracy_clean": float(shares[0].mean())}
