import json
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_lab.registry import card
from evaluated import results

Trained = Callable[..., Path]


def test_a_card_says_what_a_stranger_has_to_know(trained: Trained) -> None:
    recipe = json.loads((trained() / "inpainter" / "recipe.json").read_text())
    text = card("faces", recipe, results())
    assert text.startswith("# faces\n")
    assert "16x16 pixels" in text
    assert "| network | UNet (" in text
    assert "| sampler | ddim (steps 3) |" in text
    assert "Trained on built-in faces, crop full. Synthetic faces" in text
    assert "No picture is of a real person." in text
    assert "120 test pictures of built-in faces" in text
    assert "| center | diffusion | 30.00 | 0.2000 | 20.00 | 0.800 | 0.1000 | 0.100 | 3 |" in text
    assert "| half | mean fill | 30.00 | 0.5000 |" in text
    assert "## Limits" in text
    assert "do not use it to identify anybody" in text


def test_the_terms_are_those_of_the_data(trained: Trained) -> None:
    recipe = json.loads((trained() / "inpainter" / "recipe.json").read_text())
    recipe["data"]["name"] = "CelebA"
    assert "non-commercial research only" in card("faces", recipe, results())
    recipe["data"]["name"] = "my photos"
    assert "ask before the model leaves the house" in card("faces", recipe, results())
    assert "all friends said yes" in card("faces", recipe, results(), terms="all friends said yes")


def test_a_card_of_too_little_is_refused() -> None:
    with pytest.raises(ValueError, match="lack 'data'"):
        card("faces", {}, results())
