import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_lab.inpainting import Inpainter, version_of
from diffusion_lab.registry import Candidate, Decision, Moved, Registry, versions
from diffusion_lab.registry.gate import Check, by_hand
from diffusion_lab.registry.manifest import faults, recorded
from evaluated import results

Trained = Callable[..., Path]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry, [é]=1")


def register(registry: Registry, run: Path, card: str = "# faces", name: str = "faces") -> int:
    return registry.register(name, run / "inpainter", run / "evaluation" / "results.json", card)


def passed(champion: str | None) -> Decision:
    return Decision("a run", champion, "p", (Check("figures", True, "no worse"),), "2026-01-01T00:00:00+00:00")


def promote(registry: Registry, number: int, champion: str | None, alias: str = "production") -> Path:
    return registry.promote("faces", number, passed(champion), alias)


def test_a_version_holds_all_that_is_known_of_a_model(registry: Registry, trained: Trained) -> None:
    run = trained()
    inputs = {"mask_fraction": [0.25], "input_brightness": [0.5]}
    number = registry.register("faces", run / "inpainter", run / "evaluation" / "results.json", "# é", inputs)
    folder = registry.resolve(f"faces@{number}")
    assert number == 1
    assert folder == registry.root / "faces" / "1"
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "recipe.json",
        "results.json",
        "card.md",
        "inputs.json",
        "golden.safetensors",
        "manifest.json",
    }
    for file in ("model.safetensors", "recipe.json"):
        assert (folder / file).read_bytes() == (run / "inpainter" / file).read_bytes()
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert set(json.loads((folder / "manifest.json").read_text())["files"]) == {
        path.name for path in folder.iterdir()
    } - {"manifest.json"}
    assert not registry.verify()


def test_the_golden_picture_is_what_the_model_makes(registry: Registry, trained: Trained) -> None:
    register(registry, trained())
    folder = registry.resolve("faces@1")
    golden = load_file(folder / "golden.safetensors")
    assert golden["image"].shape == golden["output"].shape == (1, 3, 16, 16)
    assert golden["mask"].dtype == torch.bool
    assert 0 < golden["mask"].float().mean() < 1
    assert torch.equal(Inpainter.load(folder)(golden["image"], golden["mask"], seeds=[0]), golden["output"])


def test_versions_count_up_and_the_same_model_is_the_same_version(registry: Registry, trained: Trained) -> None:
    assert [register(registry, trained(seed)) for seed in (0, 1, 0, 2)] == [1, 2, 1, 3]
    assert register(registry, trained(0), card="# another card") == 4
    assert [version.label for version in registry.list()] == ["faces@1", "faces@2", "faces@3", "faces@4"]
    assert register(registry, trained(0), name="others") == 1


def test_a_version_cannot_be_overwritten(registry: Registry, trained: Trained) -> None:
    register(registry, trained(0))
    before = {path.name: path.read_bytes() for path in registry.resolve("faces@1").iterdir()}
    # A number that somebody else took is passed over, not taken again.
    (registry.root / "faces" / "2").mkdir()
    (registry.root / "faces" / "2" / "model.safetensors").write_text("by hand")
    assert register(registry, trained(1)) == 3
    assert (registry.root / "faces" / "2" / "model.safetensors").read_text() == "by hand"
    assert {path.name: path.read_bytes() for path in registry.resolve("faces@1").iterdir()} == before


def test_what_is_said_of_a_version_stays(registry: Registry, trained: Trained) -> None:
    """As its files do: who holds one cannot make it another."""
    register(registry, trained())
    (version,) = registry.list()
    for name, value in vars(version).items():
        with pytest.raises(FrozenInstanceError):
            setattr(version, name, value)


def test_the_number_of_a_deleted_version_that_was_in_service_is_not_given_again(
    registry: Registry, trained: Trained
) -> None:
    register(registry, trained(0))
    register(registry, trained(1))
    promote(registry, 2, None)
    shutil.rmtree(registry.resolve("faces@2"))
    assert register(registry, trained(2)) == 3
    assert registry.verify() == ["faces@production holds or held version 2, which is gone"]


def test_the_number_of_a_deleted_version_that_was_refused_is_not_given_again(
    registry: Registry, trained: Trained
) -> None:
    """What is kept of the refusal would be taken for the new one's."""
    register(registry, trained(0))
    register(registry, trained(1))
    refusal = Decision("a run", None, "p", (Check("figures", False, "much worse"),), "now")
    with pytest.raises(ValueError, match="refused"):
        registry.promote("faces", 2, refusal)
    shutil.rmtree(registry.resolve("faces@2"))
    assert register(registry, trained(2)) == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "inpainter" / "model.safetensors").write_bytes(b"\x80\x04."), "damaged"),
        (lambda run: (run / "inpainter" / "recipe.json").write_text("{"), "not JSON"),
        (lambda run: (run / "evaluation" / "results.json").write_text("[]"), "not a JSON object"),
        (lambda run: (run / "evaluation" / "results.json").unlink(), "results.json"),
        (lambda run: not_a_number(run / "inpainter"), "not finite"),
    ],
)
def test_what_is_not_fit_leaves_nothing_behind(
    registry: Registry, trained: Trained, spoil: Callable[[Path], object], message: str
) -> None:
    run = trained()
    spoil(run)
    with pytest.raises((ValueError, OSError), match=message):
        register(registry, run)
    assert not registry.list()
    assert list((registry.root / "faces").iterdir()) == []


def not_a_number(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state[next(iter(state))].view(-1)[0] = torch.nan
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize("name", ["", "../out", "Faces", "a/b", ".hidden", "a b"])
def test_a_name_is_a_plain_word(registry: Registry, trained: Trained, name: str) -> None:
    with pytest.raises(ValueError, match="a model's name"):
        register(registry, trained(), name=name)


def test_references_are_explained(registry: Registry, trained: Trained) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no model 'faces'.*none yet"):
        registry.resolve("faces@1")
    register(registry, trained())
    promote(registry, 1, None)
    assert registry.resolve("faces@production") == registry.resolve("faces@1")
    for reference, message in (
        ("faces", "write name@number or name@alias"),
        ("faces@", "write name@number or name@alias"),
        ("@1", "a model's name"),
        ("faces@2", "there is faces@production, faces@1"),
        ("faces@canary", "there is faces@production, faces@1"),
        ("other@1", "there is faces"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            registry.resolve(reference)
    for ask in (registry.list, registry.verify):  # of a variable that nobody has set: not all models
        with pytest.raises(ValueError, match="a model's name"):
            ask("")


def test_an_alias_moves_forward_and_back(registry: Registry, trained: Trained) -> None:
    for seed in range(3):
        register(registry, trained(seed))
    promote(registry, 1, None)
    promote(registry, 2, "faces@1")
    kept = promote(registry, 3, "faces@2")
    promote(registry, 3, "faces@2")  # again: nothing happens
    assert [version.aliases for version in registry.list("faces")] == [(), (), ("production",)]
    assert registry.rollback("faces") == 2
    assert registry.rollback("faces") == 1
    with pytest.raises(ValueError, match="cannot go back"):
        registry.rollback("faces")
    assert registry.resolve("faces@production").name == "1"
    promote(registry, 3, "faces@1")
    assert registry.rollback("faces") == 1
    assert [move["version"] for move in registry.history("faces")] == [1, 2, 3, 2, 1, 3, 1]
    assert registry.history("faces")[2]["why"] == f"decisions/{kept.name}"
    assert json.loads(kept.read_text())["checks"][0]["sentence"] == "no worse"


def test_a_decision_is_kept_to_be_read_under_its_own_sum(registry: Registry, trained: Trained) -> None:
    register(registry, trained())
    kept = registry.promote("faces", 1, by_hand("faces@1", "für é"))
    assert kept.name == f"1-production-{hashlib.sha256(kept.read_bytes()).hexdigest()[:8]}.json"
    text = kept.read_text(encoding="utf-8")
    assert text.startswith('{\n  "version": 1,\n  "alias": "production",\n')
    assert text.endswith("}\n")
    assert "für é" in text
    moved = (registry.root / "faces" / "aliases.json").read_text()
    assert moved.startswith('{\n  "production": {\n    "version": 1,\n')


def test_a_version_is_a_candidate_and_who_holds_an_alias_its_champion(registry: Registry, trained: Trained) -> None:
    assert registry.champion("faces") is None
    register(registry, trained(), card="# é")
    folder = registry.resolve("faces@1")
    assert registry.candidate("faces@1") == Candidate("faces@1", folder, results(), "# é")
    assert registry.champion("faces") is None
    promote(registry, 1, None)
    assert registry.champion("faces") == registry.candidate("faces@1")
    (folder / "card.md").unlink()
    assert registry.candidate("faces@1").card == ""


def test_aliases_do_not_disturb_each_other(registry: Registry, trained: Trained) -> None:
    for seed in range(2):
        register(registry, trained(seed))
    promote(registry, 1, None)
    promote(registry, 2, None, alias="canary")
    assert registry.resolve("faces@production").name == "1"
    assert registry.resolve("faces@canary").name == "2"
    with pytest.raises(ValueError, match="small letters, digits and dashes"):
        promote(registry, 1, None, alias="3")


def test_a_decision_against_another_champion_does_not_count(registry: Registry, trained: Trained) -> None:
    for seed in range(3):
        register(registry, trained(seed))
    promote(registry, 1, None)
    promote(registry, 2, "faces@1")
    with pytest.raises(Moved, match=r"faces@production is faces@2 now, but the gate compared a run with faces@1"):
        promote(registry, 3, "faces@1")
    assert registry.resolve("faces@production").name == "2"
    registry.promote("faces", 3, by_hand("faces@3", "the old one is offensive"))
    assert registry.resolve("faces@production").name == "3"


def test_a_refusal_is_kept_and_nothing_moves(registry: Registry, trained: Trained) -> None:
    register(registry, trained())
    refusal = Decision("a run", None, "p", (Check("figures", False, "much worse"),), "now")
    with pytest.raises(ValueError, match="faces@1 is refused as faces@production: much worse"):
        registry.promote("faces", 1, refusal)
    (kept,) = (registry.root / "faces" / "decisions").iterdir()
    assert (
        Decision.read(
            {key: value for key, value in json.loads(kept.read_text()).items() if key not in ("version", "alias")}
        )
        == refusal
    )
    assert registry.champion("faces") is None


def flip(path: Path, place: int) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_verify_finds_a_flipped_byte_in_any_file(registry: Registry, trained: Trained, place: int) -> None:
    register(registry, trained())
    folder = registry.resolve("faces@1")
    for path in sorted(folder.iterdir()):
        flip(path, place)
        (fault,) = registry.verify("faces@1")
        assert path.name in fault
        flip(path, place)
    assert not registry.verify("faces")


def test_verify_finds_what_was_added_or_is_gone(registry: Registry, trained: Trained) -> None:
    register(registry, trained())
    folder = registry.resolve("faces@1")
    (folder / "run.ckpt").write_text("a pickle")
    (folder / "golden.safetensors").unlink()
    assert registry.verify() == ["faces@1: golden.safetensors is missing", "faces@1: run.ckpt was added"]


def test_verify_of_a_model_is_of_the_versions_that_it_has(registry: Registry, trained: Trained) -> None:
    assert registry.verify() == []
    with pytest.raises(FileNotFoundError, match="there is no model 'faces'"):
        registry.verify("faces")
    for seed in range(2):
        register(registry, trained(seed))
    shutil.rmtree(registry.resolve("faces@1"))
    assert registry.verify("faces") == registry.verify("faces@2") == []
    (registry.resolve("faces@2") / "card.md").unlink()
    assert registry.verify("faces") == registry.verify("faces@2") == ["faces@2: card.md is missing"]


MANIFEST = """{
  "files": {
    "a.txt": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
    "b.txt": "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
  },
  "registered": "2026-01-01T00:00:00+00:00",
  "sha256": "832fba981064211a799f7f4fd27353a81025ad1fdd6d3ad0cbc6ab8cdd909a79"
}
"""
"""As every version so far has it: the sums of "a" and "b", and that of the line of JSON before it."""


def test_a_manifest_of_before_still_says_that_nothing_changed(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    assert faults(tmp_path) == ["manifest.json is missing"]
    path = tmp_path / "manifest.json"
    path.write_text(MANIFEST)
    assert faults(tmp_path) == []
    assert recorded(tmp_path) == {name: hashlib.sha256(name[:1].encode()).hexdigest() for name in ("a.txt", "b.txt")}
    lines = MANIFEST.splitlines(keepends=True)
    for damaged in (
        "".join([*lines[:2], lines[3].replace("\n", ",\n"), lines[2].replace(",", ""), *lines[4:]]),  # in another order
        MANIFEST.replace("2026", "2025"),
        MANIFEST.replace("  ", "   "),
        "[]",
    ):
        path.write_text(damaged)
        assert faults(tmp_path) == ["manifest.json is damaged"]
    for unread in ("[]", '{"files": []}', "{"):
        path.write_text(unread)
        assert recorded(tmp_path) == {}


def test_a_version_is_called_by_its_place_and_any_other_model_by_its_weights(
    registry: Registry, trained: Trained, tmp_path: Path
) -> None:
    run = trained()
    register(registry, run)
    assert version_of(registry.resolve("faces@1")) == "faces@1"
    link = tmp_path / "served"
    link.symlink_to(registry.resolve("faces@1"))
    assert version_of(link) == "faces@1"
    weights = (run / "inpainter" / "model.safetensors").read_bytes()
    assert version_of(run / "inpainter") == hashlib.sha256(weights).hexdigest()[:12]


def test_a_damaged_version_gets_no_alias(registry: Registry, trained: Trained) -> None:
    for seed in range(2):
        register(registry, trained(seed))
    promote(registry, 1, None)
    flip(registry.resolve("faces@2") / "model.safetensors", 5000)
    with pytest.raises(ValueError, match="faces@2 is damaged"):
        promote(registry, 2, "faces@1")
    flip(registry.resolve("faces@2") / "model.safetensors", 5000)
    promote(registry, 2, "faces@1")
    flip(registry.resolve("faces@1") / "model.safetensors", 5000)
    with pytest.raises(ValueError, match="faces@1 is damaged"):
        registry.rollback("faces")
    assert registry.resolve("faces@production").name == "2"


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["diffusion_lab.registry"])


def one_of_many(root: Path, run: Path, barrier: "multiprocessing.synchronize.Barrier") -> None:
    torch.set_num_threads(1)
    registry = Registry(root)
    barrier.wait()
    number = register(registry, run)
    registry.promote("faces", number, by_hand(f"faces@{number}", "a race"))


def test_eight_processes_register_and_promote_at_once(registry: Registry, trained: Trained) -> None:
    runs = [trained(seed) for seed in range(8)]
    barrier = PROCESSES.Barrier(8)
    writers = [PROCESSES.Process(target=one_of_many, args=(registry.root, run, barrier)) for run in runs]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 8
    assert [version.number for version in registry.list("faces")] == list(range(1, 9))
    assert not registry.verify()
    weights = {(version.folder / "model.safetensors").read_bytes() for version in registry.list("faces")}
    assert weights == {(run / "inpainter" / "model.safetensors").read_bytes() for run in runs}
    # No move was lost: each of them took the place of the one before it.
    moves = [move["version"] for move in registry.history("faces")]
    assert sorted(moves) == list(range(1, 9))
    assert [registry.rollback("faces") for _ in range(7)] == moves[-2::-1]
    assert not list((registry.root / "faces").glob(".unfinished*"))


def killed_while_it_registers(root: Path, run: Path) -> None:
    torch.set_num_threads(1)

    def die(*paths: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    os.rename = die
    register(Registry(root), run)


def killed_while_it_promotes(root: Path) -> None:
    def die(*paths: object) -> None:
        if str(paths[1]).endswith("aliases.json"):
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = die
    promote(Registry(root), 2, "faces@1")


def test_a_kill_between_write_and_rename_leaves_no_half_version(registry: Registry, trained: Trained) -> None:
    register(registry, trained(0))
    promote(registry, 1, None)
    writer = PROCESSES.Process(target=killed_while_it_registers, args=(registry.root, trained(1)))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    (left,) = (registry.root / "faces").glob(".unfinished*")
    assert [version.label for version in registry.list()] == ["faces@1"]
    assert register(registry, trained(1)) == 2  # the lock died with its holder
    assert left.exists()  # its writer might still be at work
    os.utime(left, (time.time() - 100_000,) * 2)
    register(registry, trained(2))
    assert not left.exists()

    writer = PROCESSES.Process(target=killed_while_it_promotes, args=(registry.root,))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert registry.resolve("faces@production").name == "1"
    promote(registry, 2, "faces@1")
    assert registry.resolve("faces@production").name == "2"
    assert not registry.verify()


def test_what_is_left_unfinished_for_a_day_is_cleared_away(
    registry: Registry, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = registry.root / "faces" / ".unfinished-x"
    left.mkdir(parents=True)
    os.utime(left, (1_000_000, 1_000_000))

    def register_after(seconds: float) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(versions.time, "time", lambda: 1_000_000 + seconds)
            register(registry, trained())

    register_after(24 * 60 * 60)
    assert left.exists()
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)  # what cannot be cleared away stops nobody
        register_after(24 * 60 * 60 + 0.5)
    assert left.exists()
    register_after(24 * 60 * 60 + 0.5)
    assert not left.exists()


def refuse(*paths: object, **options: object) -> None:
    raise PermissionError("not yours")


def test_a_writer_at_work_is_not_swept_away_when_the_clock_jumps(
    registry: Registry, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, home = trained(0), registry.root / "faces"
    seen = []

    def meanwhile(model: Any) -> Any:
        """Another writer comes, two days later by its clock."""
        (mine,) = home.glob(".unfinished*")
        with monkeypatch.context() as patch:
            patch.setattr(versions, "golden", real)
            patch.setattr(versions.time, "time", lambda: now + 200_000)
            seen.append(register(registry, trained(1)))
        assert mine.exists()
        return real(model)

    real, now = versions.golden, time.time()
    monkeypatch.setattr(versions, "golden", meanwhile)
    assert register(registry, slow) == 2
    assert seen == [1]
    assert not registry.verify()


@pytest.mark.parametrize("damage", ['"version": 2', '"moves": []'])
def test_an_alias_that_says_two_things_is_damaged(registry: Registry, trained: Trained, damage: str) -> None:
    register(registry, trained(0))
    register(registry, trained(1))
    promote(registry, 1, None)
    path = registry.root / "faces" / "aliases.json"
    facts = json.loads(path.read_text())
    facts["production"] |= json.loads("{" + damage + "}")
    path.write_text(json.dumps(facts))
    for ask in (lambda: registry.resolve("faces@production"), registry.verify, lambda: registry.rollback("faces")):
        with pytest.raises(ValueError, match="production is not where it last went"):
            ask()
