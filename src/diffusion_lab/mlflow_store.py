"""Where MLflow keeps things: a server, or without one an SQLite file with a folder beside it."""

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_FILE = "sqlite:///"


def place(uri: str | None, folder: Path | str) -> str:
    """The URI that is given, that of the environment (MLFLOW_TRACKING_URI), or a file ``mlflow.db`` in a folder.

    Raises:
        ValueError: if MLflow is not installed.

    Example:
        >>> place("http://here:5000", "logs")
        'http://here:5000'
    """
    try:
        import mlflow  # noqa: F401
    except ModuleNotFoundError:
        raise ValueError("MLflow is not installed: uv sync --extra mlflow") from None
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # else each table that a new file gets is told
    if uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return uri or os.environ["MLFLOW_TRACKING_URI"]
    return f"{_FILE}{Path(folder).absolute() / 'mlflow.db'}"


def shown(uri: str) -> str:
    """The URI without the name and the password that it may hold.

    Example:
        >>> shown("https://me:secret@here:5000/x"), shown("sqlite:////logs/mlflow.db")
        ('https://here:5000/x', 'sqlite:////logs/mlflow.db')
    """
    return re.sub(r"//[^/@]*@", "//", uri)


def experiment(client: "MlflowClient", name: str) -> str:
    """The id of an experiment, which is made if it is not there; artefacts of a file lie in ``mlflow/`` beside it."""
    from mlflow.exceptions import MlflowException

    uri = client.tracking_uri
    beside = (Path(uri.removeprefix(_FILE)).absolute().parent / "mlflow").as_uri() if uri.startswith(_FILE) else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=beside))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)  # another run made it meanwhile
        assert found is not None
    return str(found.experiment_id)
