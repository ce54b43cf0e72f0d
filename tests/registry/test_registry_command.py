import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusion_lab.commands.registry import main
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.registry import Registry, gate, inputs
from diffusion_lab.registry.mirror import mirror
from evaluated import results

Trained = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> tuple[int, str, str]:
        # The clock of a busy machine has a test of its own.
        monkeypatch.setattr(gate, "seconds_per_picture", lambda inpainters, rounds: [0.1, 0.1])
        code = main(["--root", str(tmp_path / "registry"), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_figures_of_two_protocols_do_not_share_a_table_in_silence(command: Command, trained: Trained) -> None:
    for seed, figures in enumerate((results(), results(mask_set=2), results(device="a GPU", batch_size=7))):
        assert command("register", "faces", trained(seed, figures))[0] == 0
    _, out, _ = command("list")
    assert "FID and LPIPS are of 2 protocols: they compare within one only" in out
    first, second, third = (line.split() for line in out.splitlines() if "faces@" in line)
    at = next(i for i, (one, other) in enumerate(zip(first, second, strict=True)) if i and one != other)
    assert len(first[at]) == 8
    assert third[at] == first[at]


def test_register_promote_list_rollback_verify(command: Command, trained: Trained, tmp_path: Path) -> None:
    code, out, _ = command("list")
    assert (code, "no versions" in out) == (0, True)
    code, out, _ = command("register", "faces", trained(0))
    assert (code, out.startswith("faces@1 is ")) == (0, True)
    code, out, _ = command("promote", "faces@1")
    assert code == 0
    assert "nothing holds the place yet" in out
    assert "faces@production is version 1 now" in out

    better = results(lpips=0.15, seed=1)
    run = trained(1, better)
    (run / "inputs.json").write_text(json.dumps({"mask_fraction": [0.5], "input_brightness": [0.5]}))
    assert command("register", "faces", run / "inpainter")[0] == 0
    assert (tmp_path / "registry" / "faces" / "2" / "inputs.json").is_file()
    code, out, _ = command("promote", "faces@2")
    assert code == 0
    assert "lpips 0.1500 against 0.2000, worse by -0.0500" in out
    code, out, _ = command("list", "faces")
    assert code == 0
    rows = [line.split() for line in out.splitlines() if "faces@" in line]
    assert [row[0] for row in rows] == ["faces@1", "faces@2"]
    assert "production" in rows[1]
    assert "0.1500" in rows[1]
    assert "protocols" not in out  # both are of the same

    assert command("verify")[:2] == (0, f"{tmp_path / 'registry'}: every byte is as it was registered\n")
    assert command("rollback", "faces")[:2] == (0, "faces@production is version 1 again\n")
    assert command("rollback", "faces")[::2] == (
        1,
        "error: faces@production cannot go back: no version held it before\n",
    )


def test_a_worse_model_is_refused_with_its_figures(command: Command, trained: Trained, tmp_path: Path) -> None:
    command("register", "faces", trained(0))
    command("register", "faces", trained(1, results(lpips=0.3, seed=1)))
    command("promote", "faces@1")
    code, out, err = command("promote", "faces@2")
    assert code == 1
    assert "no  center, diffusion: lpips 0.3000 against 0.2000, worse by +0.1000" in out
    assert err.startswith("error: faces@2 is refused as faces@production: center, diffusion: lpips 0.3000")
    decisions = [json.loads(path.read_text()) for path in (tmp_path / "registry" / "faces" / "decisions").iterdir()]
    assert sorted((each["version"], each["passed"]) for each in decisions) == [(1, True), (2, False)]
    code, out, _ = command("promote", "faces@2", "--force", "it is for a demo")
    assert (code, "faces@production is version 2 now" in out) == (0, True)


def test_mistakes_end_in_a_sentence(command: Command, trained: Trained, tmp_path: Path) -> None:
    run = trained()
    (run / "evaluation" / "results.json").unlink()
    code, _, err = command("register", "faces", run)
    assert (code, "evaluate the model first" in err) == (1, True)
    assert command("register", "faces", tmp_path / "nowhere")[0] == 1
    assert command("promote", "faces@1")[::2] == (
        1,
        f"error: there is no model 'faces' in the registry '{tmp_path / 'registry'}'; there is none yet\n",
    )
    assert command("verify", "faces")[0] == 1


def test_verify_has_an_exit_code(command: Command, trained: Trained, tmp_path: Path) -> None:
    command("register", "faces", trained())
    card = tmp_path / "registry" / "faces" / "1" / "card.md"
    card.chmod(0o644)
    card.write_text("I am the best model")
    assert command("verify")[:2] == (1, "faces@1: card.md is not what was registered\n")


@pytest.mark.slow
def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "diffusion_lab.registry", "--help"], capture_output=True, text=True, check=True
    )
    for name in ("register", "promote", "list", "rollback", "verify"):
        assert name in done.stdout


class Recorded:
    """A W&B run that notes what it is asked."""

    def __init__(self) -> None:
        self.logged: list[tuple[Any, list[str]]] = []
        self.linked: list[tuple[str, list[str]]] = []

    def log_artifact(self, artifact: Any, *, aliases: list[str]) -> None:
        self.logged.append((artifact, aliases))

    def link_artifact(self, artifact: Any, target_path: str, aliases: list[str]) -> None:
        self.linked.append((target_path, aliases))


def test_a_version_is_mirrored_with_its_aliases(command: Command, trained: Trained, tmp_path: Path) -> None:
    command("register", "faces", trained())
    command("promote", "faces@1")
    run = Recorded()
    registry = Registry(tmp_path / "registry")
    assert mirror(registry, "faces@production", run, "wandb-registry-model/faces") == ["version-1", "production"]
    ((artifact, aliases),) = run.logged
    assert (artifact.name, artifact.type, aliases) == ("faces", "model", ["version-1", "production"])
    assert set(artifact.manifest.entries) == {path.name for path in registry.resolve("faces@1").iterdir()}
    assert artifact.metadata["data"]["image_size"] == 16
    assert run.linked == [("wandb-registry-model/faces", ["version-1", "production"])]
    weights = registry.resolve("faces@1") / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged and is not mirrored"):
        mirror(registry, "faces@1", run)


@pytest.mark.slow
def test_mirroring_offline_needs_no_account(
    command: Command, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    command("register", "faces", trained())
    code, out, err = command("mirror", "faces@1", "--offline")
    assert (code, out) == (0, "faces@1 is in W&B as version-1, once synced\n"), err
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"version-1" in log.read_bytes()


def test_a_version_in_mlflow_follows_its_aliases(
    command: Command, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real MLflow on a file: what it hands out is the version, byte by byte, and loads."""
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path / 'logs' / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command("register", "faces", trained(0))
    command("promote", "faces@1")
    for _ in range(2):  # the second time nothing is uploaded
        told = command("mirror", "faces@1", "--to", "mlflow")
        assert told[:2] == (0, "faces@1 is version 1 in MLflow, as production\n"), told
    command("register", "faces", trained(1))
    command("promote", "faces@2", "--force", "it is for a demo")
    assert command("mirror", "faces@production", "--to", "mlflow", "--uri", store)[:2] == (
        0,
        "faces@production is version 2 in MLflow, as production\n",
    )
    client = mlflow.MlflowClient(store)
    assert client.get_model_version_by_alias("faces", "production").tags["version"] == "faces@2"
    assert len(client.search_model_versions("name = 'faces'")) == 2
    command("rollback", "faces")
    command("mirror", "faces@2", "--to", "mlflow")
    assert client.get_registered_model("faces").aliases == {}  # version 2 lost it here, so it lost it there
    command("mirror", "faces@1", "--to", "mlflow")
    source = client.get_model_version_by_alias("faces", "production").source
    folder = Path(mlflow.artifacts.download_artifacts(source, dst_path=str(tmp_path / "copy"), tracking_uri=store))
    ours = Registry(tmp_path / "registry").resolve("faces@1")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in ours.iterdir()
    }
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json", ".md"}
    assert Inpainter.load(folder).recipe == Inpainter.load(ours).recipe


def test_a_damaged_version_is_not_mirrored(command: Command, trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    command("register", "faces", trained())
    weights = tmp_path / "registry" / "faces" / "1" / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1])
    code, _, err = command("mirror", "faces@1", "--to", "mlflow", "--uri", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (code, "faces@1 is damaged and is not mirrored" in err) == (1, True)
    assert not (tmp_path / "mlflow.db").exists()


def test_inputs_are_those_of_the_training_examples() -> None:
    import torch

    class Halves:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, indices: Any) -> torch.Tensor:
            images = torch.zeros(len(indices), 3, 8, 8, dtype=torch.uint8)
            images[..., 4:] = 51 * torch.as_tensor(indices).view(-1, 1, 1, 1).to(torch.uint8)
            return images

    def left(size: int, generator: torch.Generator) -> torch.Tensor:
        return (torch.arange(size) < size // 2).expand(1, size, size)

    seen = inputs(Halves(), left)
    assert seen == {"mask_fraction": [0.5] * 5, "input_brightness": [0.0, 0.2, 0.4, 0.6, 0.8]}
    assert inputs(Halves(), lambda size, generator: torch.ones(1, size, size, dtype=torch.bool), 2) == {
        "mask_fraction": [1.0] * 2,
        "input_brightness": [0.5] * 2,
    }
