"""`finetune=lora`: a run that trains a low-rank change of a saved model, and what it changed, apart from the model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_lab import adapters
from diffusion_lab.inpainting import Inpainter

RunScript = Callable[..., tuple[int, str, str]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_tuned_model_is_whole_and_comes_apart(
    tiny: list[str], tmp_path: Path, run_script: RunScript, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run_script("train.py", *tiny, "trainer.max_steps=2", f"hydra.run.dir={first}")[0] == 0
    base, tuned = first / "inpainter", second / "inpainter"
    asked = [*tiny, "finetune=lora", "finetune.rank=2", f"start_from={base}", "seed=5"]
    code, out, err = run_script("train.py", *asked, "trainer.max_steps=2", f"hydra.run.dir={second}")
    assert code == 0, err
    assert "of which" in out  # the table of the network
    before, after = weights(base), weights(tuned)
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])}
    assert all(torch.equal(before[name], after[name]) for name in before if before[name].ndim < 2)

    moved = base.rename(tmp_path / "base")  # the run goes on without it
    code, _, err = run_script("train.py", f"resume={second}", "trainer.max_steps=3", f"paths.logs={tmp_path}")
    assert code == 0, err
    assert {name for name in after if not torch.equal(after[name], weights(tuned)[name])}

    file, again = tmp_path / "mine.safetensors", tmp_path / "again"
    adapters.main(["keep", str(moved), str(tuned), "--output", str(file)])
    adapters.main(["merge", str(moved), str(file), "--output", str(again)])
    assert "rank 2" in capsys.readouterr().out
    made, wanted = weights(again), weights(tuned)
    for name in wanted:
        torch.testing.assert_close(made[name], wanted[name], rtol=0, atol=1e-6)
    assert Inpainter.load(again).recipe["training"]["adapter"]["strength"] == 1

    with pytest.raises(SystemExit):
        adapters.main(["merge", str(again), str(file), "--output", str(tmp_path / "wrong")])
    assert "belongs to a base of digest" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        adapters.main(["keep", str(moved), str(moved), "--output", str(file)])
    assert "not trained with finetune=lora" in capsys.readouterr().err


def test_a_tuning_needs_a_model(tiny: list[str], run_script: RunScript) -> None:
    code, _, err = run_script("train.py", *tiny, "finetune=lora")
    assert code == 1
    assert err == "error: finetune= changes a trained model a little: name its folder by start_from=\n"


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_a_file_that_is_no_adapter_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file"
    if content is None:
        save_file({"weight": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="is no adapter"):
        adapters.Adapter.load(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        adapters.Adapter.load(tmp_path / "nowhere")
