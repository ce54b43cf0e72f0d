"""A version in Weights & Biases: the folder stays the truth, and W&B shows and hands out a copy."""

from pathlib import Path
from typing import Any, Protocol

from diffusion_lab import recipe
from diffusion_lab.registry.versions import Registry


class Run(Protocol):
    """What is needed of a W&B run."""

    def log_artifact(self, artifact: Any, *, aliases: list[str]) -> Any:
        """Uploads an artifact under aliases; an alias that another version had moves here."""

    def link_artifact(self, artifact: Any, target_path: str, aliases: list[str]) -> Any:
        """Shows the artifact in a collection of W&B's registry too."""


def mirror(registry: Registry, reference: str, run: Run, collection: str | None = None) -> list[str]:
    """Logs a version as an artifact of a W&B run, under its number and the aliases that it has now.

    Args:
        registry: where the version stands.
        reference: "name@3" or "name@production".
        run: from `wandb.init`.
        collection: path of a collection in W&B's registry, such as "wandb-registry-model/faces"; None leaves the
            artifact in its project.

    Returns:
        The aliases.

    Raises:
        FileNotFoundError: if there is no such version.
        ValueError: if it is damaged.
    """
    import wandb  # late: a registry needs no account and no client

    version = registry.find(reference)
    faults = registry.verify(version.label)
    if faults:
        raise ValueError(f"{version.label} is damaged and is not mirrored: {'; '.join(faults)}")
    aliases = [f"version-{version.number}", *version.aliases]  # W&B counts v0, v1, ... itself
    artifact = wandb.Artifact(version.name, type="model", metadata=_facts(version.folder))
    artifact.add_dir(str(version.folder))
    run.log_artifact(artifact, aliases=aliases)
    if collection is not None:
        run.link_artifact(artifact, collection, aliases=aliases)
    return aliases


def mirrored(registry: Registry, reference: str, project: str, collection: str | None, offline: bool) -> list[str]:
    """`mirror` in a W&B run of its own.

    Args:
        registry: where the version stands.
        reference: "name@3" or "name@production".
        project: W&B's.
        collection: as of `mirror`.
        offline: keep it on this machine until `wandb sync`.
    """
    import wandb

    quiet = wandb.Settings(silent=True, console="off")
    with wandb.init(
        project=project, job_type="register", mode="offline" if offline else "online", settings=quiet
    ) as run:
        return mirror(registry, reference, run, collection)


def _facts(folder: Path) -> dict[str, Any]:
    return {key: value for key, value in recipe.read(folder).items() if key != "model"}
