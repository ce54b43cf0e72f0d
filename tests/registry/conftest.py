"""Trained models as the registry receives them, without the training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_lab.inpainting import Inpainter
from diffusion_lab.registry import card
from evaluated import results


@pytest.fixture
def trained(tmp_path: Path, inpainter: Inpainter) -> Callable[..., Path]:
    """A run's folder with an inpainter and its results; another seed is another model."""

    def make(seed: int = 0, figures: dict[str, Any] | None = None) -> Path:
        run = tmp_path / "runs" / f"run {seed}"
        with torch.no_grad():
            for parameter in inpainter.parameters():
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(seed))
        inpainter.recipe["data"]["name"] = "built-in faces"
        inpainter.save(run / "inpainter")
        (run / "evaluation").mkdir(exist_ok=True)
        (run / "evaluation" / "results.json").write_text(json.dumps(figures or results()))
        (run / "card.md").write_text(card("faces", inpainter.recipe, figures or results()))
        return run

    return make
