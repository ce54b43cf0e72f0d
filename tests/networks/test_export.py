import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusion_lab import recipe
from diffusion_lab.diffusion.denoiser import Condition, NetworkDenoiser
from diffusion_lab.diffusion.samplers import dps, heun
from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.networks import export
from diffusion_lab.networks.dit import DiT
from diffusion_lab.networks.export import Called, example, identity, main, read_onnx, traced, write_onnx
from diffusion_lab.networks.unet import UNet
from diffusion_lab.pictures import to_uint8

LEVELS = torch.tensor([1e-4, 0.01, 0.2, 0.5, 0.8, 0.97, 0.999, 1 - 1e-6], dtype=torch.float64)


@dataclass(frozen=True)
class Exported:
    """An inpainter's folder, its network in another form, and the file that this form is."""

    inpainter: Inpainter
    folder: Path
    file: Path

    def denoiser(self, call: export.Call) -> NetworkDenoiser:
        """The same denoiser, its network asked by a call."""
        own = self.inpainter.denoiser
        return NetworkDenoiser(Called(own.network, call), own.schedule, own.predicts, own.told)


def build(network: dict[str, Any]) -> Inpainter:
    """An inpainter for 16 pixels with random weights, of which no branch is silent."""
    denoiser = "diffusion_lab.diffusion.denoiser"
    unet = {"image_size": 16, "channels": 32, "multipliers": [1, 1], "depth": 1, "condition_channels": 4, **network}
    model = {
        "_target_": "diffusion_lab.inpainting.Inpainter",
        "denoiser": {
            "_target_": f"{denoiser}.NetworkDenoiser",
            "network": {"_target_": "diffusion_lab.networks.unet.UNet", **unet},
            "schedule": {"_target_": "diffusion_lab.diffusion.schedule.cosine", "steps": 100},
            "predicts": {"_target_": f"{denoiser}.Velocity"},
            "told": {"_target_": f"{denoiser}.by_gamma", "_partial_": True},
        },
        "sampler": {"_target_": "diffusion_lab.diffusion.samplers.ddim", "steps": 12},
    }
    torch.manual_seed(0)
    made: Inpainter = recipe.build(model)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.05 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    made.recipe = {"model": model, "data": {"name": "none", "crop": "full", "image_size": 16}}
    return made.eval()


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("exported")
    inpainter = build({"attention": [8], "middle_attention": True, "head_width": 16})
    inpainter.save(root / "inpainter")
    assert main([str(root / "inpainter"), "--output", str(root / "new" / "model.onnx")]) == 0
    return Exported(inpainter, root / "inpainter", root / "new" / "model.onnx")


def question(rows: int) -> tuple[Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(rows)
    x, known, fill = torch.randn(3, rows, 3, 16, 16, generator=generator)
    mask = torch.rand(rows, 1, 16, 16, generator=generator) < 0.4
    return x, LEVELS[torch.arange(rows) * 3 % 8], Condition(torch.where(mask, fill, known), mask, fill=fill)


def check_parity(exported: Exported, call: export.Call, rows: int) -> None:
    x, levels, condition = question(rows)
    for turn in range(0, len(LEVELS), rows):  # every level, whatever the number of rows
        level = levels if rows > 1 else LEVELS[turn : turn + 1]
        with torch.no_grad():
            said = exported.denoiser(call)(x, level, condition)
            wanted = exported.inpainter.denoiser(x, level, condition)
        torch.testing.assert_close(said.x_0, wanted.x_0, atol=1e-4, rtol=0)
        torch.testing.assert_close(said.eps, wanted.eps, atol=1e-4, rtol=0)
        assert wanted.x_0.std() > 0.02  # the network has a say


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_onnx_answers_as_the_network_does(onnx: Exported, rows: int) -> None:
    check_parity(onnx, read_onnx(onnx.file, identity(onnx.folder)), rows)


def test_a_whole_inpainting_comes_out_within_one_level(onnx: Exported) -> None:
    own = onnx.inpainter
    other = Inpainter(onnx.denoiser(read_onnx(onnx.file)), own.sampler, own.constrain)
    generator = torch.Generator().manual_seed(5)
    image, mask = torch.rand(3, 3, 16, 16, generator=generator) * 2 - 1, torch.zeros(3, 1, 16, 16, dtype=torch.bool)
    mask[:, :, 4:12, 4:12] = True

    def differ(sampler: Sampler | None) -> int:
        made, wanted = (to_uint8(each(image, mask, seeds=[1, 2, 3], sampler=sampler)).int() for each in (other, own))
        assert torch.equal(*(torch.where(mask, 0, picture) for picture in (made, wanted)))
        return int((made - wanted).abs().max())

    assert differ(None) <= 1
    assert differ(heun(steps=5)) <= 1
    assert differ(dps(steps=5)) == 0  # wants gradients, so the network itself is asked


def test_the_file_knows_its_inpainter(onnx: Exported, tmp_path: Path) -> None:
    about = identity(onnx.folder)
    assert json.loads(about["recipe"]) == onnx.inpainter.recipe
    read_onnx(onnx.file, {**about, "recipe": json.dumps(onnx.inpainter.recipe, indent=3)})  # laid out otherwise
    other = build({"attention": [8], "middle_attention": True, "head_width": 16})
    nn.init.zeros_(next(other.parameters()))
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match="of another inpainter: its weights differs"):
        read_onnx(onnx.file, identity(tmp_path / "other"))
    longer = json.loads(about["recipe"])
    longer["model"]["sampler"]["steps"] = 50
    with pytest.raises(ValueError, match="of another inpainter: its recipe differs"):
        read_onnx(onnx.file, {**about, "recipe": json.dumps(longer)})


def test_attributes_are_refused_where_none_were_learned(onnx: Exported) -> None:
    call = read_onnx(onnx.file)
    with pytest.raises(ValueError, match="told 0 attributes, and 2 were given"):
        call(*example(onnx.inpainter.denoiser.network, 1), torch.zeros(1, 2))


def test_torch_export_answers_as_the_network_does(onnx: Exported, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "model.pt2"
    assert main([str(onnx.folder), "--output", str(file)]) == 0
    assert "for any batch" in capsys.readouterr().out
    about = dict.fromkeys(identity(onnx.folder), "")
    call = torch.export.load(file, extra_files=about).module()
    assert about == identity(onnx.folder)
    for rows in (1, 3, 8):
        check_parity(onnx, lambda x, condition, time, attributes: call(x, condition, time), rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        {"condition_channels": 0, "patch": 2, "pad_after": True, "scale_shift": False},
        {"attributes": 5, "condition_channels": 3, "resample_blocks": True, "channels_last": True, "out_channels": 6},
    ],
    ids=["unconditional", "attributes"],
)
def test_every_kind_of_network_can_be_exported(network: dict[str, Any], tmp_path: Path) -> None:
    unet = build(network).denoiser.network
    assert isinstance(unet, UNet)
    write_onnx(unet, tmp_path / "model.onnx", {})
    call, program = read_onnx(tmp_path / "model.onnx"), traced(unet).module()
    for rows in (1, 3, 8):
        inputs = example(unet, rows)
        with torch.no_grad():
            unsaid = unet(*inputs)
            torch.testing.assert_close(call(*inputs[:3], None), unsaid, atol=1e-4, rtol=0)
            torch.testing.assert_close(program(*inputs), unsaid, atol=1e-4, rtol=0)
            if unet.attributes:
                said = torch.where(torch.arange(5) % 2 == 0, torch.nan, 1.0).expand(rows, -1)
                torch.testing.assert_close(call(*inputs[:3], said), unet(*inputs[:3], said), atol=1e-4, rtol=0)
                assert not torch.allclose(call(*inputs[:3], said), unsaid, atol=1e-2)


def no_folder(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "recipe.json").unlink()


def no_onnx(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "onnxscript", None)


def too_large(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(export, "LARGEST", 1000)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (no_folder, "no recipe.json in "),
        (no_onnx, "ONNX needs packages that are not installed: uv sync --extra onnx"),
        (too_large, "do not fit into an ONNX file, which ends at 2 GiB"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(
    break_it: Callable[[Path, pytest.MonkeyPatch], None],
    message: str,
    inpainter: Inpainter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inpainter.save(tmp_path / "inpainter")
    (tmp_path / "model.onnx").write_text("as it was")
    break_it(tmp_path / "inpainter", monkeypatch)
    assert main([str(tmp_path / "inpainter"), "--output", str(tmp_path / "model.onnx")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
    assert (tmp_path / "model.onnx").read_text() == "as it was"
    assert {path.name for path in tmp_path.iterdir()} == {"inpainter", "model.onnx"}


def test_the_name_says_the_format(inpainter: Inpainter, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--output", str(tmp_path / "model.bin")]) == 1
    assert "ends neither with .onnx nor with .pt2" in capsys.readouterr().err


def test_a_transformer_is_traced_for_any_number_of_pictures() -> None:
    torch.manual_seed(0)
    network = DiT(image_size=16, patch=4, width=32, depth=2, heads=2, condition_channels=4, attributes=2).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    program = traced(network).module()
    for rows in (1, 3):
        inputs = example(network, rows)
        with torch.no_grad():
            torch.testing.assert_close(program(*inputs), network(*inputs))


def test_no_other_network_is_known_to_be_exportable() -> None:
    with pytest.raises(ValueError, match="a Linear cannot be exported"):
        export.exportable(nn.Linear(1, 1))


def test_a_file_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ValueError, match="not an ONNX file that ONNX Runtime reads"):
        read_onnx(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="ONNX needs packages that are not installed"):
        read_onnx(tmp_path / "model.onnx")
