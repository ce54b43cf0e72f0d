"""A version in Weights & Biases or MLflow: the folder stays the truth, and they show and hand out a copy."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from diffusion_lab import recipe
from diffusion_lab.mlflow_store import experiment, place, shown
from diffusion_lab.registry.manifest import parsed
from diffusion_lab.registry.versions import Registry, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


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

    version = _whole(registry, reference)
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


def to_mlflow(registry: Registry, reference: str, uri: str | None, folder: Path | str) -> tuple[int, list[str]]:
    """Copies a version into MLflow's model registry, once, and gives it there the aliases that it has here now.

    What is copied is the version's folder as it is, safetensors and JSON: MLflow hands it out and does not load it.

    Args:
        registry: where the version stands.
        reference: "name@3" or "name@production".
        uri: of a server or database; None is that of the environment (MLFLOW_TRACKING_URI), or the folder.
        folder: for an SQLite file, where no URI is given.

    Returns:
        Its number there, since MLflow counts by itself, and the aliases.

    Raises:
        FileNotFoundError: if there is no such version.
        ValueError: if it is damaged, or MLflow is not installed or did not take it.
    """
    version = _whole(registry, reference)
    where = place(uri, folder)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(where)
        if not client.search_registered_models(f"name = '{version.name}'"):
            client.create_registered_model(version.name)
        seal = str(parsed(version.folder / "manifest.json")["sha256"])  # of another registry's faces@1 there is another
        copies = client.search_model_versions(f"name = '{version.name}' and tags.manifest = '{seal}'")
        copy = copies[0] if copies else _copied(client, version, seal)
        there = client.get_registered_model(version.name).aliases  # alias -> number
        for alias in version.aliases:
            client.set_registered_model_alias(version.name, alias, copy.version)
        for alias in {name for name, number in there.items() if str(number) == str(copy.version)} - {*version.aliases}:
            client.delete_registered_model_alias(version.name, alias)
    except MlflowException as error:
        raise ValueError(
            f"MLflow at {shown(where)} did not take {version.label}: {str(error).splitlines()[0]}"
        ) from None
    return int(copy.version), list(version.aliases)


def _copied(client: "MlflowClient", version: Version, seal: str) -> "ModelVersion":
    """Uploads the files under a run, which is how MLflow takes them, and registers them when all are there."""
    run = client.create_run(experiment(client, "registry"), run_name=version.label).info
    client.log_artifacts(run.run_id, str(version.folder), "inpainter")
    client.set_terminated(run.run_id)
    return client.create_model_version(
        version.name,
        f"{run.artifact_uri}/inpainter",
        run.run_id,
        tags={"version": version.label, "manifest": seal},
        description=(version.folder / "card.md").read_text(encoding="utf-8"),
    )


def _whole(registry: Registry, reference: str) -> Version:
    version = registry.find(reference)
    if faults := registry.verify(version.label):
        raise ValueError(f"{version.label} is damaged and is not mirrored: {'; '.join(faults)}")
    return version


def _facts(folder: Path) -> dict[str, Any]:
    return {key: value for key, value in recipe.read(folder).items() if key != "model"}
