"""``diffusion-lab registry register|promote|list|rollback|verify|mirror``: look after trained models."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from diffusion_lab.registry import Decision, Registry, Version


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    asked = _parser().parse_args(arguments)  # before torch is imported, and help need not wait
    from diffusion_lab.registry import Registry

    try:
        run: Callable[[argparse.Namespace, Registry], int] = asked.run
        return run(asked, Registry(asked.root))
    except OSError as error:
        said = f"{error.strerror}: '{error.filename}'" if error.strerror and error.filename else str(error)
        print(f"error: {said}", file=sys.stderr)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffusion-lab registry", description="Look after trained models.")
    parser.add_argument("--root", type=Path, default=Path("registry"), help="of the registry (default: registry)")
    commands = parser.add_subparsers(required=True, metavar="command")

    register = commands.add_parser("register", help="take a trained model as the next version")
    register.set_defaults(run=_register)
    register.add_argument("name", help="of the model, such as faces")
    register.add_argument("folder", type=Path, help="of a run, or of its inpainter")
    register.add_argument("--results", type=Path, help="results.json of evaluate.py (default: the run's)")
    register.add_argument("--terms", help="of the pictures that it was trained on, for the model card")

    promote = commands.add_parser("promote", help="ask the gate, and point an alias at a version")
    promote.set_defaults(run=_promote)
    promote.add_argument("version", help="such as faces@3")
    promote.add_argument("--alias", default="production")
    promote.add_argument("--force", metavar="REASON", help="decide without the gate, for a reason that is kept")

    listing = commands.add_parser("list", help="show the versions")
    listing.set_defaults(run=_list)
    listing.add_argument("name", nargs="?", help="of a model (default: all)")

    rollback = commands.add_parser("rollback", help="point an alias at the version that held it before")
    rollback.set_defaults(run=_rollback)
    rollback.add_argument("name", help="of the model")
    rollback.add_argument("--alias", default="production")

    verify = commands.add_parser("verify", help="compare every byte with what was registered")
    verify.set_defaults(run=_verify)
    verify.add_argument("version", nargs="?", help="such as faces@3 or faces (default: everything)")

    mirror = commands.add_parser("mirror", help="copy a version to Weights & Biases or MLflow, with its aliases")
    mirror.set_defaults(run=_mirror)
    mirror.add_argument("version", help="such as faces@3 or faces@production")
    mirror.add_argument("--to", choices=["wandb", "mlflow"], default="wandb", help="where to (default: wandb)")
    mirror.add_argument("--uri", help="MLflow's (default: MLFLOW_TRACKING_URI, or sqlite:///logs/mlflow.db)")
    mirror.add_argument("--project", default="diffusion_lab", help="W&B's (default: diffusion_lab)")
    mirror.add_argument("--collection", help="of W&B's registry, such as wandb-registry-model/faces")
    mirror.add_argument("--offline", action="store_true", help="keep it here until `wandb sync`")
    return parser


def _register(asked: argparse.Namespace, registry: "Registry") -> int:
    from diffusion_lab import recipe
    from diffusion_lab.registry import card

    folder: Path = asked.folder / "inpainter" if (asked.folder / "inpainter").is_dir() else asked.folder
    results: Path = asked.results or folder.parent / "evaluation" / "results.json"
    if not results.is_file():
        raise FileNotFoundError(f"no '{results}': evaluate the model first, or name its results by --results")
    figures = json.loads(results.read_text(encoding="utf-8"))
    inputs = folder.parent / "inputs.json"
    number = registry.register(
        asked.name,
        folder,
        results,
        card(asked.name, recipe.read(folder), figures, asked.terms),
        json.loads(inputs.read_text(encoding="utf-8")) if inputs.is_file() else None,
    )
    print(f"{asked.name}@{number} is {registry.resolve(f'{asked.name}@{number}')}")
    return 0


def _promote(asked: argparse.Namespace, registry: "Registry") -> int:
    from rich.console import Console

    from diffusion_lab.registry import judge
    from diffusion_lab.registry.gate import by_hand

    version = registry.find(asked.version)
    if asked.force is not None:
        decision = by_hand(version.label, asked.force)
    else:
        decision = judge(registry.candidate(version.label), registry.champion(version.name, asked.alias))
    show(decision, Console())
    kept = registry.promote(version.name, version.number, decision, asked.alias)
    print(f"{version.name}@{asked.alias} is version {version.number} now; why: {kept}")
    return 0


def show(decision: "Decision", console: "Console") -> None:
    """Prints every reason."""
    for check in decision.checks:
        console.print("[green]yes[/green]" if check.passed else "[red]no [/red]", end=" ")
        console.print(check.sentence, markup=False, highlight=False, soft_wrap=True)


def _list(asked: argparse.Namespace, registry: "Registry") -> int:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    versions = registry.list(asked.name)
    if not versions:
        print(f"no versions in '{registry.root}' yet: register one with `diffusion-lab registry register`")
        return 0
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("version", "aliases", "trained on", "px", "n", "FID↓", "LPIPS↓", "protocol", "MB", "registered"):
        table.add_column(heading, justify="right" if heading in ("px", "n", "FID↓", "LPIPS↓", "MB") else "left")
    rows = [_row(version) for version in versions]
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    names = {row[7] for row in rows} - {"-"}
    if len(names) > 1:
        print(f"FID and LPIPS are of {len(names)} protocols: they compare within one only. The gate says what differs.")
    return 0


def _row(version: "Version") -> list[str]:
    """What there is to say of a version; dashes where its files do not say it."""
    from diffusion_lab.protocol import digest
    from diffusion_lab.registry import Candidate
    from diffusion_lab.registry.gate import protocol

    trained = _read(version.folder / "recipe.json").get("data", {})
    results = _read(version.folder / "results.json")
    rows = [row for row in results.get("rows", []) if row.get("network_calls", 0) > 0]
    weights = version.folder / "model.safetensors"

    def mean(key: str, form: str) -> str:
        values = [row[key] for row in rows if row.get(key) is not None]
        return format(sum(values) / len(values), form) if values else "-"

    return [
        version.label,
        ", ".join(version.aliases),
        str(trained.get("name", "-")),
        str(trained.get("image_size", "-")),
        str(results.get("protocol", {}).get("n", "-")),
        mean("fid", ".2f"),
        mean("lpips", ".4f"),
        digest(protocol(Candidate(version.label, version.folder, results, "")))[:8] if rows else "-",
        f"{weights.stat().st_size / 1e6:.1f}" if weights.is_file() else "-",
        str(_read(version.folder / "manifest.json").get("registered", "-"))[:16].replace("T", " "),
    ]


def _read(path: Path) -> Mapping[str, Any]:
    """What a file says; nothing where it is damaged, which `verify` tells."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _rollback(asked: argparse.Namespace, registry: "Registry") -> int:
    number = registry.rollback(asked.name, asked.alias)
    print(f"{asked.name}@{asked.alias} is version {number} again")
    return 0


def _verify(asked: argparse.Namespace, registry: "Registry") -> int:
    faults = registry.verify(asked.version)
    for fault in faults:
        print(fault)
    if not faults:
        print(f"{asked.version or registry.root}: every byte is as it was registered")
    return 1 if faults else 0


def _mirror(asked: argparse.Namespace, registry: "Registry") -> int:
    from diffusion_lab.registry.mirror import mirrored, to_mlflow

    if asked.to == "mlflow":
        number, aliases = to_mlflow(registry, asked.version, asked.uri, Path("logs"))
        print(f"{asked.version} is version {number} in MLflow" + (f", as {', '.join(aliases)}" if aliases else ""))
        return 0
    aliases = mirrored(registry, asked.version, asked.project, asked.collection, asked.offline)
    print(f"{asked.version} is in W&B as {', '.join(aliases)}{', once synced' if asked.offline else ''}")
    return 0
