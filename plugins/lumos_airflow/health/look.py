"""``python -m lumos_airflow.health.look RECIPE``: what only a process of its own may find out.

MLflow's client takes seconds to import and brings pyspark along: that does not belong into the
server that shows the UI. What is found is one line of JSON; what goes wrong is named there and
explained on stderr, which goes to the server's log.
"""

import datetime as dt
import logging
import os
import subprocess
import sys
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lumos.host.process import child_environment

_SECONDS = 30


class Version(BaseModel):
    """A model version: when it was registered, and the last day it was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    registered: dt.datetime
    as_of: str = ""


class Training(BaseModel):
    """A run of MLflow that has begun and not ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: str
    started: dt.datetime
    epochs: int
    planned_epochs: int | None = None


class Found(BaseModel):
    """What was found out.

    Attributes:
        trouble: ``recipe`` if no verb has stored it, ``registry`` if MLflow does not answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trouble: Literal["", "recipe", "registry"] = ""
    champion: Version | None = None
    challenger: Version | None = None
    training: Training | None = None


def look(recipe: str) -> Found:
    """Ask in a process of its own.

    Raises:
        subprocess.SubprocessError: It did not end well, or not in time.
    """
    environment = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        # Of the server's own keys and addresses it gets as little as a task's verb does.
        **child_environment(os.environ),
        # The server has Airflow's plugins folder on its path, a new process has not.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "lumos_airflow.health.look", recipe],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        msg = f"exit code {done.returncode}:\n{done.stderr[-2000:]}"
        raise subprocess.SubprocessError(msg)
    found = Found.model_validate_json(done.stdout.splitlines()[-1])
    if found.trouble:
        logging.getLogger(__name__).warning("%s: %s", recipe, done.stderr[-2000:])
    return found


def find(name: str) -> Found:
    """What :func:`look` asks for, in this process."""
    from lumos import stored
    from lumos.settings import Settings

    settings = Settings.from_environment()
    try:
        recipe = stored.read(settings, name)
    except (ValueError, OSError):
        logging.exception("recipe %s is not known", name)
        return Found(trouble="recipe")
    try:
        return _registry(settings, recipe)
    except Exception:
        logging.exception("MLflow does not answer")
        return Found(trouble="registry")


def _registry(settings: Any, recipe: Any) -> Found:  # noqa: ANN401 - lumos is imported late
    from lumos.train import tracking

    client, model = tracking.client(settings), tracking.model_name(recipe)
    aliases = {
        alias: tracking.version_of(settings, recipe, alias) for alias in ("champion", "challenger")
    }
    return Found(
        champion=_version(client, model, aliases["champion"]),
        challenger=_version(client, model, aliases["challenger"]),
        training=_training(client, model),
    )


def _version(client: Any, model: str, version: str | None) -> Version | None:  # noqa: ANN401
    if version is None:
        return None
    found = client.get_model_version(model, version)
    run = client.get_run(found.run_id)
    return Version(
        version=str(version),
        registered=_moment(found.creation_timestamp),
        as_of=run.data.tags.get("as_of", ""),
    )


def _training(client: Any, model: str) -> Training | None:  # noqa: ANN401
    experiment = client.get_experiment_by_name(model)
    if experiment is None:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        "attributes.status = 'RUNNING'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    if not runs:
        return None
    (run,) = runs
    planned = run.data.params.get("training.epochs")
    return Training(
        as_of=run.data.tags.get("as_of", ""),
        started=_moment(run.info.start_time),
        epochs=len(client.get_metric_history(run.info.run_id, "train/loss")),
        planned_epochs=int(planned) if planned and planned.isdigit() else None,
    )


def _moment(milliseconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


if __name__ == "__main__":
    sys.stdout.write(find(sys.argv[1]).model_dump_json() + "\n")
